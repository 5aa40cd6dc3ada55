// The list of conversations, with what can be done to each; a drawer on
// narrow screens.

import { byId, h, iconButton, toast } from './dom.js';
import * as store from './store.js';

/// `page` offers `current()`, `isRunning(id)`, `opened(id)` for an address,
/// `newChat()`, `renamed(id, title)`, `removed(id)` and `kept(conversation)`.
export class Sidebar {
  constructor(page) {
    this.page = page;
    this.list = byId('chats');
    this.drawer = byId('sidebar');
    this.menu = byId('chat-menu');
    byId('new-chat').addEventListener('click', page.newChat);
    byId('open-sidebar').addEventListener('click', () => this.open());
    byId('close-sidebar').addEventListener('click', () => this.close());
    byId('scrim').addEventListener('click', () => this.close());
    byId('export').addEventListener('click', () => this.exportAll());
    byId('import').addEventListener('click', () => byId('import-file').click());
    byId('import-file').addEventListener('change', (event) => this.importFrom(event.target));
    this.drawer.addEventListener('keydown', (event) => {
      if (event.key === 'Escape' && this.isOpen() && !event.defaultPrevented) this.close();
    });
    this.prepareMenu();
    store.onOthersChange(() => this.render());
    this.render();
  }

  render() {
    const entries = store.list();
    const current = this.page.current();
    // The focus stays where it was, on nodes made anew.
    const focused = document.activeElement.closest('#chats li');
    const at = focused && [...focused.children].indexOf(document.activeElement);
    this.list.replaceChildren(...entries.map((entry) => this.item(entry, entry.id === current)));
    if (focused) this.itemOf(focused.dataset)?.children[at]?.focus();
    byId('no-chats').hidden = entries.length > 0;
    byId('export').hidden = entries.length === 0;
  }

  /// The line of a conversation, if it is listed.
  itemOf({ id }) {
    return [...this.list.children].find((item) => item.dataset.id === id);
  }

  item(entry, isCurrent) {
    const title = entry.title || 'Untitled';
    const link = h(
      'a',
      {
        href: `#/${entry.id}`,
        'aria-current': isCurrent ? 'page' : undefined,
        dir: 'auto',
        title,
        onclick: () => this.close(),
      },
      title,
    );
    const more = iconButton('more', `More for “${title}”`, () => this.openMenu(entry, more), {
      class: 'icon-button more',
      'aria-haspopup': 'menu',
    });
    const running = this.page.isRunning(entry.id) ? 'running' : undefined;
    return h('li', { 'data-id': entry.id, class: running }, link, more);
  }

  // The menu of one conversation.

  prepareMenu() {
    const choose = (id, action) =>
      byId(id).addEventListener('click', () => {
        this.menu.hidePopover();
        action(this.chosen);
      });
    choose('menu-rename', (entry) => this.rename(entry));
    choose('menu-export', (entry) => this.exportOne(entry));
    choose('menu-delete', (entry) => this.remove(entry));
    this.menu.addEventListener('keydown', (event) => {
      const items = [...this.menu.querySelectorAll('button')];
      const at = items.indexOf(document.activeElement);
      const to = { ArrowDown: at + 1, ArrowUp: at - 1 + items.length, Home: 0, End: items.length - 1 }[
        event.key
      ];
      if (to === undefined) return;
      event.preventDefault();
      items[to % items.length].focus();
    });
  }

  openMenu(entry, button) {
    this.chosen = entry;
    this.menu.showPopover();
    const at = button.getBoundingClientRect();
    const top = Math.min(at.bottom + 4, innerHeight - this.menu.offsetHeight - 8);
    const left = Math.max(
      8,
      Math.min(at.right - this.menu.offsetWidth, innerWidth - this.menu.offsetWidth - 8),
    );
    this.menu.style.top = `${top}px`;
    this.menu.style.left = `${left}px`;
    this.menu.querySelector('button').focus();
  }

  rename(entry) {
    const field = h('input', {
      type: 'text',
      class: 'rename',
      'aria-label': 'Title',
      maxlength: '80',
      dir: 'auto',
    });
    field.value = entry.title;
    let over = false;
    const end = (keep) => {
      if (over) return;
      over = true;
      if (keep && field.value.trim()) this.page.renamed(entry.id, field.value.trim());
      this.render();
      this.itemOf(entry)?.querySelector('a').focus();
    };
    field.addEventListener('blur', () => end(true));
    field.addEventListener('keydown', (event) => {
      if (event.isComposing || (event.key !== 'Enter' && event.key !== 'Escape')) return;
      event.preventDefault();
      event.stopPropagation();
      end(event.key === 'Enter');
    });
    this.itemOf(entry)?.replaceChildren(field);
    field.select();
  }

  remove(entry) {
    const conversation = store.load(entry.id);
    this.page.removed(entry.id);
    this.render();
    (this.list.querySelector('a') ?? byId('new-chat')).focus();
    const undo = () => {
      this.page.kept(conversation);
      this.render();
    };
    toast(`Deleted “${entry.title || 'Untitled'}”.`, conversation ? { label: 'Undo', run: undo } : undefined);
  }

  // Files.

  exportOne(entry) {
    const conversation = store.load(entry.id);
    if (conversation) download(`chat-${entry.id.slice(0, 8)}.json`, store.exported([conversation]));
  }

  exportAll() {
    const conversations = store
      .list()
      .map(({ id }) => store.load(id))
      .filter((conversation) => conversation !== null);
    download(`chats-${new Date().toISOString().slice(0, 10)}.json`, store.exported(conversations));
  }

  async importFrom(input) {
    const file = input.files[0];
    if (!file) return;
    try {
      const conversations = store.imported(await file.text());
      conversations.forEach((conversation) => store.save(conversation));
      toast(conversations.length === 1 ? 'Imported a chat.' : `Imported ${conversations.length} chats.`);
    } catch (error) {
      toast(
        error.name === 'QuotaExceededError' ? 'This browser has no room for so many chats.' : error.message,
      );
    }
    input.value = '';
    this.render();
  }

  // The drawer.

  isOpen() {
    return document.body.classList.contains('drawer-open');
  }

  open() {
    document.body.classList.add('drawer-open');
    byId('main').inert = true;
    byId('open-sidebar').setAttribute('aria-expanded', 'true');
    byId('close-sidebar').focus();
  }

  close() {
    if (!this.isOpen()) return;
    document.body.classList.remove('drawer-open');
    byId('main').inert = false;
    byId('open-sidebar').setAttribute('aria-expanded', 'false');
    byId('open-sidebar').focus();
  }
}

function download(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: 'application/json' }));
  h('a', { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
