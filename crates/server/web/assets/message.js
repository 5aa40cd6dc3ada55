// How a message looks, and what can be done with it.

import { copyFrom, h, icon, iconButton, isPlainEnter } from './dom.js';
import { MarkdownView } from './markdown.js';

/// What a message may ask of the page: `regenerate`, `edited(text)`, `settings`.
export class MessageView {
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    const isUser = message.role === 'user';
    this.content = h('div', {
      class: isUser ? 'content plain' : 'content markdown',
      dir: isUser ? 'auto' : undefined,
    });
    this.stats = h('span', { class: 'stats' });
    this.buttons = h('div', { class: 'actions' });
    this.notes = h('div', { class: 'notes' });
    const label = isUser ? 'You' : message.model || 'Assistant';
    this.element = h(
      'article',
      { class: `message ${message.role}`, 'aria-label': label },
      this.content,
      this.notes,
      this.buttons,
    );
    if (isUser) this.content.textContent = message.content;
    else this.markdown = new MarkdownView(this.content);
    this.update({ busy: false, last: false });
  }

  /// Shows the message as it is now. `busy`: it is being written; `last`: it is
  /// the last of its role.
  update({ busy, last }) {
    if (this.message.role === 'assistant') {
      this.updateReasoning(busy);
      this.markdown.update(this.message.content);
      this.updateStats(busy);
      this.element.setAttribute('aria-busy', String(busy));
    }
    const state = [busy, last, this.message.content !== '', Boolean(this.message.reasoning)].join();
    if (state === this.state) return;
    this.state = state;
    this.element.classList.toggle('last', last);
    this.updateNotes(busy);
    this.updateButtons(busy, last);
  }

  updateReasoning(busy) {
    const { reasoning, content, figures } = this.message;
    if (!reasoning) return;
    if (!this.reasoning) this.addReasoning();
    const thinking = busy && content === '';
    const seconds = figures.thought === undefined ? '' : ` for ${duration(figures.thought)}`;
    this.summary.textContent = thinking ? 'Thinking…' : `Thought${seconds}`;
    this.reasoning.classList.toggle('thinking', thinking);
    if (this.reasoning.open) this.thoughts.update(reasoning);
  }

  addReasoning() {
    const body = h('div', { class: 'thoughts markdown' });
    this.thoughts = new MarkdownView(body);
    this.summary = h('span');
    // Rendered only once somebody looks.
    const ontoggle = () => this.reasoning.open && this.thoughts.update(this.message.reasoning);
    this.reasoning = h(
      'details',
      { class: 'reasoning', ontoggle },
      h('summary', {}, icon('chevron'), this.summary),
      body,
    );
    this.content.before(this.reasoning);
  }

  updateStats(busy) {
    const { tokens, rate, first } = this.message.figures;
    const exact = this.message.figures.total !== undefined;
    const parts = [];
    if (tokens)
      parts.push(`${exact ? '' : '≈ '}${tokens.toLocaleString('en')} ${tokens === 1 ? 'token' : 'tokens'}`);
    if (rate) parts.push(`${rate.toFixed(rate < 10 ? 1 : 0)} tokens/s`);
    if (first !== undefined && !busy) parts.push(`first after ${duration(first)}`);
    this.stats.textContent = parts.join(' · ');
  }

  updateNotes(busy) {
    const { message } = this;
    const notes = [];
    if (busy && message.content === '' && !message.reasoning)
      notes.push(h('div', { class: 'waiting', 'aria-hidden': 'true' }, h('i'), h('i'), h('i')));
    if (message.stopped) notes.push(h('p', { class: 'note' }, 'Stopped.'));
    if (message.cut)
      notes.push(h('p', { class: 'note' }, 'The reply reached its longest length and was cut.'));
    if (message.error) notes.push(this.errorBox(message.error));
    this.notes.replaceChildren(...notes);
  }

  errorBox({ message, advice, detail, kind }) {
    const box = h(
      'div',
      { class: 'error' },
      h('p', {}, h('strong', {}, message), advice ? ` ${advice}` : ''),
    );
    if (detail) box.append(h('p', { class: 'detail', dir: 'auto' }, `The server said: ${detail}`));
    const buttons = h('div', { class: 'error-actions' });
    if (kind === 'key')
      buttons.append(h('button', { type: 'button', onclick: this.actions.settings }, 'Open settings'));
    box.append(buttons);
    this.retry = h(
      'button',
      { type: 'button', class: 'retry', onclick: this.actions.regenerate },
      'Try again',
    );
    buttons.append(this.retry);
    return box;
  }

  updateButtons(busy, last) {
    const { message, actions } = this;
    if (this.retry) this.retry.hidden = !last;
    if (busy) {
      this.buttons.replaceChildren(this.stats);
      return;
    }
    const copy = iconButton('copy', 'Copy message', () => copyFrom(copy, message.content), {
      class: 'icon-button copy',
    });
    copy.append(icon('check'));
    const buttons = message.content === '' ? [] : [copy];
    if (last && message.role === 'user')
      buttons.push(iconButton('edit', 'Edit message', () => this.edit(), { class: 'icon-button edit' }));
    if (last && message.role === 'assistant' && !message.error) {
      buttons.push(
        iconButton('retry', 'Regenerate reply', actions.regenerate, { class: 'icon-button regenerate' }),
      );
    }
    if (message.role === 'assistant') buttons.push(this.stats);
    this.buttons.replaceChildren(...buttons);
  }

  /// Lets the message be written anew, in its place.
  edit() {
    const area = h('textarea', { 'aria-label': 'Edit message', dir: 'auto', rows: '1' });
    area.value = this.message.content;
    const cancel = () => {
      form.replaceWith(this.content);
      this.buttons.hidden = false;
      this.buttons.querySelector('.edit')?.focus();
    };
    const send = () => {
      if (area.value.trim()) this.actions.edited(area.value);
    };
    const onkeydown = (event) => {
      if (event.target === area && isPlainEnter(event)) send();
      else if (event.key === 'Escape') cancel();
      else return;
      event.preventDefault();
      event.stopPropagation();
    };
    const buttons = h(
      'div',
      { class: 'edit-actions' },
      h('button', { type: 'button', onclick: cancel }, 'Cancel'),
      h('button', { type: 'button', class: 'primary', onclick: send }, 'Send'),
    );
    const form = h('div', { class: 'editor', onkeydown }, area, buttons);
    area.addEventListener('input', () => fitHeight(area));
    this.content.replaceWith(form);
    this.buttons.hidden = true;
    fitHeight(area);
    area.focus();
  }
}

/// Makes a text area as high as its text; CSS bounds it.
export function fitHeight(area) {
  area.style.height = 'auto';
  area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
}

function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(seconds < 1 ? 2 : 1)} s`;
  const whole = Math.round(seconds);
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}
