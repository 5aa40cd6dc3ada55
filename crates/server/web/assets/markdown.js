// Shows Markdown that grows. Blocks that can no longer change are left alone;
// of the last one, only what differs is made anew, so that a long reply costs
// no more per frame than a short one and selections survive.

import { copyFrom, h, icon } from './dom.js';
import { parseBlocks } from './blocks.js';
import { inline } from './inline.js';

/// The rendered form of a text to which more is appended.
export class MarkdownView {
  constructor(container) {
    this.container = container;
    /// Characters of the source whose blocks are final.
    this.settled = 0;
    /// Blocks after these, as shown now.
    this.blocks = [];
  }

  /// Shows `source`, of which all that was shown before is the beginning.
  update(source) {
    const tail = source.slice(this.settled);
    const blocks = parseBlocks(tail);
    const first = this.container.childNodes.length - this.blocks.length;
    patchAll(this.container, first, this.blocks, blocks);
    for (let i = first; i < this.container.childNodes.length; i += 1)
      this.container.childNodes[i].dir ||= 'auto';
    this.blocks = blocks;
    this.settle(tail);
  }

  /// The last block may grow. If what makes it one stands on the last line,
  /// which may be unfinished, it may also turn out to belong to the block before.
  settle(tail) {
    let last = this.blocks.length - 1;
    if (last <= 0) return;
    const lines = tail.split('\n');
    const { line, type } = this.blocks[last];
    // A table is one by its second line.
    if (line + (type === 'table' ? 1 : 0) >= lines.length - 1) last -= 1;
    if (last === 0) return;
    for (let line = 0; line < this.blocks[last].line; line += 1) this.settled += lines[line].length + 1;
    this.blocks = this.blocks.slice(last);
    const moved = this.blocks[0].line;
    for (const block of this.blocks) block.line -= moved;
  }
}

/// Makes the children of `parent` from `first` on, which show `old`, show `blocks`.
function patchAll(parent, first, old, blocks) {
  blocks.forEach((block, i) => {
    const element = parent.childNodes[first + i];
    if (!element) parent.append(render(block));
    else if (!patch(element, old[i], block)) element.replaceWith(render(block));
  });
  while (parent.childNodes.length > first + blocks.length) parent.lastChild.remove();
}

/// Makes an element that shows `old` show `block`; false if it must be made anew.
function patch(element, old, block) {
  if (old.type !== block.type) return false;
  if (old.raw === block.raw) return true;
  switch (block.type) {
    case 'code':
      return patchCode(element, old, block);
    case 'quote':
      patchAll(element, 0, old.blocks, block.blocks);
      return true;
    case 'list':
      return patchList(element, old, block);
    case 'table':
      return patchTable(element, old, block);
    default:
      return false;
  }
}

function patchCode(element, old, block) {
  if (old.language !== block.language || !block.text.startsWith(old.text)) return false;
  element.querySelector('code').firstChild.appendData(block.text.slice(old.text.length));
  return true;
}

function patchList(element, old, block) {
  if (old.ordered !== block.ordered || old.start !== block.start || block.items.length < old.items.length)
    return false;
  element.classList.toggle('tight', block.tight);
  if (!element.className) element.removeAttribute('class');
  block.items.forEach((item, i) => {
    const before = old.items[i];
    const child = element.childNodes[i];
    if (!before) element.append(listItem(item));
    else if (before.done !== item.done) child.replaceWith(listItem(item));
    else if (before.raw !== item.raw)
      patchAll(child.classList.contains('task') ? child.lastChild : child, 0, before.blocks, item.blocks);
  });
  return true;
}

function patchTable(element, old, block) {
  const same = old.header.join('|') === block.header.join('|') && old.align.join() === block.align.join();
  if (!same || block.rows.length < old.rows.length) return false;
  const body = element.querySelector('tbody');
  block.rows.forEach((row, i) => {
    if (!old.rows[i]) body.append(tableRow('td', row.cells, block.align));
    else if (old.rows[i].raw !== row.raw)
      body.childNodes[i].replaceWith(tableRow('td', row.cells, block.align));
  });
  return true;
}

function render(block) {
  switch (block.type) {
    case 'code':
      return codeBlock(block);
    case 'heading':
      // The page's own headings are of levels 1 and 2.
      return h(`h${Math.min(block.level + 2, 6)}`, { class: `level-${block.level}` }, inline(block.text));
    case 'rule':
      return h('hr');
    case 'quote':
      return h('blockquote', {}, ...block.blocks.map(render));
    case 'list':
      return listElement(block);
    case 'table':
      return tableElement(block);
    default:
      return h('p', {}, inline(block.text));
  }
}

function codeBlock(block) {
  const code = h('code', {}, document.createTextNode(block.text));
  const copy = h(
    'button',
    {
      type: 'button',
      class: 'copy-code',
      'aria-label': 'Copy code',
      onclick: () => copyFrom(copy, code.textContent),
    },
    icon('copy'),
    icon('check'),
  );
  const label = h('span', { class: 'language' }, block.language || 'text');
  // Wide lines scroll, also by keyboard.
  const pre = h('pre', { tabindex: '0' }, code);
  return h('figure', { class: 'code', dir: 'ltr' }, h('figcaption', {}, label, copy), pre);
}

function listElement(block) {
  const start = block.ordered && block.start !== 1 ? String(block.start) : undefined;
  const props = { class: block.tight ? 'tight' : undefined, start };
  return h(block.ordered ? 'ol' : 'ul', props, ...block.items.map(listItem));
}

function listItem(item) {
  if (item.done === undefined) return h('li', {}, ...item.blocks.map(render));
  const box = h('input', {
    type: 'checkbox',
    disabled: true,
    checked: item.done,
    'aria-label': item.done ? 'done' : 'to do',
  });
  return h('li', { class: 'task' }, box, h('div', { class: 'task-text' }, ...item.blocks.map(render)));
}

function tableElement(block) {
  const head = h('thead', {}, tableRow('th', block.header, block.align));
  const body = h('tbody', {}, ...block.rows.map((row) => tableRow('td', row.cells, block.align)));
  return h(
    'div',
    { class: 'table', tabindex: '0', role: 'region', 'aria-label': 'Table' },
    h('table', {}, head, body),
  );
}

function tableRow(tag, texts, align) {
  const cells = texts.map((text, i) =>
    h(tag, { class: align[i] ? `align-${align[i]}` : undefined }, inline(text)),
  );
  return h('tr', {}, ...cells);
}
