// Small helpers to build the page's nodes. Text always becomes text nodes:
// nothing in this page parses HTML at run time.

/// Makes an element. `on…` properties are listeners, the others attributes;
/// those that are false or undefined are left out.
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children);
  return element;
}

/// The element with an id, which index.html is known to have.
export function byId(id) {
  return document.getElementById(id);
}

/// A drawing from the symbols in index.html.
export function icon(name) {
  const namespace = 'http://www.w3.org/2000/svg';
  const svg = document.createElementNS(namespace, 'svg');
  svg.setAttribute('class', 'icon');
  svg.setAttribute('aria-hidden', 'true');
  const use = document.createElementNS(namespace, 'use');
  use.setAttribute('href', `#icon-${name}`);
  svg.append(use);
  return svg;
}

/// A button that shows a drawing and a word; the word may be for readers only.
export function iconButton(name, label, onclick, props = {}) {
  return h(
    'button',
    { type: 'button', class: 'icon-button', 'aria-label': label, title: label, onclick, ...props },
    icon(name),
  );
}

/// Whether a key means "done" rather than a new line, or a word of an input
/// method; Safari tells of the latter only by its code.
export function isPlainEnter(event) {
  return event.key === 'Enter' && !event.shiftKey && !event.isComposing && event.keyCode !== 229;
}

/// Copies text, and shows on the button whether that worked.
export async function copyFrom(button, text) {
  const worked = await copy(text);
  const before = button.getAttribute('aria-label');
  button.classList.add(worked ? 'done' : 'failed');
  button.setAttribute('aria-label', worked ? 'Copied' : 'Copying failed');
  announce(worked ? 'Copied' : 'Copying failed');
  setTimeout(() => {
    button.classList.remove('done', 'failed');
    button.setAttribute('aria-label', before);
  }, 1500);
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

/// Browsers offer the clipboard only to https and localhost; a server reached
/// by another name over http needs the old way.
function copyBySelection(text) {
  const focused = document.activeElement;
  const area = h('textarea', { class: 'sr-only', 'aria-hidden': 'true' });
  area.value = text;
  document.body.append(area);
  area.select();
  const worked = document.execCommand('copy');
  area.remove();
  focused?.focus();
  return worked;
}

/// Has screen readers say something without moving the focus.
export function announce(text) {
  byId('status').textContent = text;
}

let toastTimer;

/// Shows a short message for a while, with at most one thing to do about it.
export function toast(text, action) {
  const box = byId('toast');
  const hide = () => {
    clearTimeout(toastTimer);
    box.replaceChildren();
  };
  const button =
    action &&
    h(
      'button',
      {
        type: 'button',
        onclick: () => {
          hide();
          action.run();
        },
      },
      action.label,
    );
  box.replaceChildren(
    h('div', { class: 'toast' }, h('span', { dir: 'auto' }, text), ...(button ? [button] : [])),
  );
  clearTimeout(toastTimer);
  toastTimer = setTimeout(hide, action ? 8000 : 5000);
}
