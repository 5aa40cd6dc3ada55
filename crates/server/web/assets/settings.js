// The settings panel: system prompt and sampling of the chat that is open, the
// API key and the theme of this browser.

import { byId, h } from './dom.js';
import { SAMPLING } from './store.js';

const KEY = 'quarrel.key';
const THEME = 'quarrel.theme';

/// The API key, kept until the tab is closed.
export function apiKey() {
  try {
    return sessionStorage.getItem(KEY) ?? '';
  } catch {
    return '';
  }
}

export class Settings {
  /// `changed(system, sampling)` after an edit; `keyChanged()` when the panel
  /// closes with another key.
  constructor({ changed, keyChanged }) {
    this.changed = changed;
    this.keyChanged = keyChanged;
    this.panel = byId('settings');
    this.system = byId('system-prompt');
    this.key = byId('api-key');
    this.fields = SAMPLING.map((spec) => samplingField(spec));
    byId('sampling').append(...this.fields.map((field) => field.element));
    byId('open-settings').addEventListener('click', () => this.open());
    byId('close-settings').addEventListener('click', () => this.panel.close());
    byId('reset-sampling').addEventListener('click', () => this.reset());
    this.panel.addEventListener('input', () => this.read());
    this.panel.addEventListener('close', () => this.takeKey());
    // A click beside the panel closes it.
    this.panel.addEventListener('click', (event) => event.target === this.panel && this.panel.close());
    this.prepareTheme();
  }

  /// Shows the settings of a conversation.
  show({ system, sampling }) {
    this.system.value = system;
    for (const { spec, input } of this.fields) input.value = sampling[spec.name] ?? '';
    this.mark();
  }

  open() {
    this.key.value = apiKey();
    this.panel.showModal();
  }

  reset() {
    for (const { input } of this.fields) input.value = '';
    this.read();
  }

  read() {
    const sampling = {};
    for (const { spec, input, problem } of this.fields) {
      const valid = input.validity.valid;
      input.setAttribute('aria-invalid', String(!valid));
      problem.textContent = valid
        ? ''
        : `${spec.whole ? 'A whole number' : 'A number'} from ${spec.min} to ${spec.max}`;
      if (valid && input.value !== '') sampling[spec.name] = Number(input.value);
    }
    this.changed(this.system.value, sampling);
    this.mark();
  }

  /// Marks the button when something differs from the server's defaults.
  mark() {
    const custom = this.system.value.trim() !== '' || this.fields.some(({ input }) => input.value !== '');
    byId('open-settings').classList.toggle('marked', custom);
  }

  takeKey() {
    const key = this.key.value.trim();
    if (key === apiKey()) return;
    try {
      if (key) sessionStorage.setItem(KEY, key);
      else sessionStorage.removeItem(KEY);
    } catch {
      // Without storage there is no key to keep; the server will ask for one.
    }
    this.keyChanged();
  }

  prepareTheme() {
    const chosen = document.documentElement.dataset.theme ?? 'auto';
    for (const choice of this.panel.querySelectorAll('[name=theme]')) {
      choice.checked = choice.value === chosen;
      choice.addEventListener('change', () => setTheme(choice.value));
    }
  }
}

function setTheme(theme) {
  const root = document.documentElement;
  if (theme === 'auto') delete root.dataset.theme;
  else root.dataset.theme = theme;
  try {
    localStorage.setItem(THEME, theme);
  } catch {
    // It then lasts until the page is reloaded.
  }
}

function samplingField(spec) {
  const { name, label, hint, min, max, whole } = spec;
  const input = h('input', {
    type: 'number',
    id: name,
    min: String(min),
    max: String(max),
    step: whole ? '1' : 'any',
    placeholder: 'default',
    'aria-describedby': `${name}-hint ${name}-problem`,
    inputmode: whole ? 'numeric' : 'decimal',
  });
  const problem = h('span', { class: 'problem', id: `${name}-problem`, role: 'status' });
  const words = h('span', { class: 'hint', id: `${name}-hint` }, hint);
  const element = h('div', { class: 'field' }, h('label', { for: name }, label), input, words, problem);
  return { spec, input, problem, element };
}
