// The chat page: which conversation is open, sending, and keeping.

import { listModels } from './api.js';
import { announce, byId, h, isPlainEnter, toast } from './dom.js';
import { Generation, emptyReply, requestFor } from './generation.js';
import { MessageView, fitHeight } from './message.js';
import { FollowEnd } from './scroll.js';
import { Settings, apiKey } from './settings.js';
import { Sidebar } from './sidebar.js';
import * as store from './store.js';

/// Replies in the making are written down this often.
const KEEP_EVERY_MS = 1000;

/// Most characters of a reply that are said to screen readers at once.
const SAID = 1500;

const prompt = byId('prompt');
const modelChoice = byId('model');
const follow = new FollowEnd(byId('scroller'), byId('to-end'));

/// Conversations whose reply is being made: `{ conversation, generation }` by id.
const running = new Map();
let models = [];
let conversation = store.newConversation();
/// One for each message of the conversation that is open.
let views = [];
let frame = 0;

const settings = new Settings({ changed: changeSettings, keyChanged: loadModels });
const sidebar = new Sidebar({
  current: () => conversation.id,
  isRunning: (id) => running.has(id),
  newChat,
  renamed: rename,
  removed: remove,
  kept: (kept) => keep(kept),
});

// What is open.

/// Opens what the address names: `#/id`, or a new chat.
function openFromAddress() {
  const id = location.hash.replace(/^#\//, '');
  if (id === conversation.id) return;
  const found = running.get(id)?.conversation ?? store.load(id);
  if (found) show(found);
  else newChat();
}

function newChat() {
  if (location.hash) history.pushState(null, '', location.pathname + location.search);
  show(store.newConversation(conversation));
  sidebar.close();
  prompt.focus();
}

function show(opened) {
  conversation = opened;
  byId('messages').replaceChildren();
  views = [];
  conversation.messages.forEach(addView);
  if (models.some(({ id }) => id === conversation.model)) modelChoice.value = conversation.model;
  settings.show(conversation);
  sidebar.render();
  refresh();
  follow.jump();
}

function addView(message) {
  const view = new MessageView(message, { regenerate, edited, settings: () => settings.open() });
  views.push(view);
  byId('messages').append(view.element);
}

function dropFrom(index) {
  conversation.messages.length = index;
  for (const view of views.splice(index)) view.element.remove();
}

/// Shows the whole state of the conversation that is open.
function refresh() {
  const { messages, system, title } = conversation;
  const busy = running.has(conversation.id);
  const lastUser = messages.findLastIndex(({ role }) => role === 'user');
  views.forEach((view, i) => {
    const isLast = i === messages.length - 1;
    view.update({ busy: busy && isLast, last: isLast || (i === lastUser && !busy) });
  });
  byId('welcome').hidden = messages.length > 0;
  byId('system-note').hidden = system.trim() === '' || messages.length === 0;
  byId('system-text').textContent = system;
  document.body.classList.toggle('busy', busy);
  document.title = title ? `${title} · Quarrel` : 'Quarrel';
  showMeter();
  showSend();
}

/// Shows what grew, at most once a frame.
function refreshSoon() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    const last = views[views.length - 1];
    last?.update({ busy: running.has(conversation.id), last: true });
    follow.grown();
  });
}

function showSend() {
  const busy = running.has(conversation.id);
  byId('send').hidden = busy;
  byId('stop').hidden = !busy;
  byId('send').disabled = prompt.value.trim() === '';
}

function showMeter() {
  const used = conversation.messages.findLast(({ figures }) => figures?.total)?.figures.total;
  const context = models.find(({ id }) => id === modelChoice.value)?.context;
  const meter = byId('meter');
  meter.hidden = used === undefined;
  if (used === undefined) return;
  const number = (value) => value.toLocaleString('en');
  byId('meter-text').textContent = context
    ? `${number(used)} of ${number(context)} tokens`
    : `${number(used)} tokens`;
  const share = context ? Math.min(used / context, 1) : 0;
  const bar = byId('meter-bar');
  bar.hidden = !context;
  bar.setAttribute('aria-valuenow', String(Math.round(share * 100)));
  bar.setAttribute('aria-valuetext', byId('meter-text').textContent);
  bar.style.setProperty('--share', String(share));
  meter.classList.toggle('nearly-full', share > 0.9);
}

// Sending.

async function send() {
  const text = prompt.value;
  if (!text.trim() || running.has(conversation.id)) return;
  if (models.length === 0 && !(await loadModels())) return;
  prompt.value = '';
  fitHeight(prompt);
  addMessage(text);
}

function addMessage(text) {
  conversation.title ||= store.titleFrom(text);
  const message = { role: 'user', content: text };
  conversation.messages.push(message);
  addView(message);
  if (location.hash !== `#/${conversation.id}`) history.pushState(null, '', `#/${conversation.id}`);
  reply();
}

function edited(text) {
  const index = conversation.messages.findLastIndex(({ role }) => role === 'user');
  dropFrom(index);
  addMessage(text);
  prompt.focus();
}

function regenerate() {
  if (running.has(conversation.id)) return;
  dropFrom(conversation.messages.findLastIndex(({ role }) => role === 'user') + 1);
  reply();
  prompt.focus();
}

/// Has the model reply to what the conversation ends with.
async function reply() {
  const asked = conversation;
  asked.model = modelChoice.value;
  const body = requestFor(asked, asked.model);
  const message = emptyReply(asked.model);
  asked.messages.push(message);
  addView(message);
  let kept = performance.now();
  const generation = new Generation(body, message, () => {
    if (conversation === asked) refreshSoon();
    if (performance.now() - kept > KEEP_EVERY_MS) {
      kept = performance.now();
      keep(asked);
    }
  });
  running.set(asked.id, { conversation: asked, generation });
  asked.updated = Date.now();
  keep(asked);
  sidebar.render();
  refresh();
  follow.jump();
  announce('Generating a reply');
  await generation.run(apiKey());
  ended(asked, message);
}

function ended(asked, message) {
  running.delete(asked.id);
  if (!asked.removed) keep(asked);
  sidebar.render();
  if (conversation !== asked) return;
  refresh();
  follow.grown();
  const text = views[views.length - 1].content.textContent.slice(0, SAID);
  if (message.error) announce(`${message.error.message} ${message.error.advice}`);
  else announce(message.stopped ? 'Stopped' : `Reply: ${text}`);
}

function stop() {
  running.get(conversation.id)?.generation.stop();
}

// Keeping.

let mayKeep = true;

function keep(kept) {
  if (kept.messages.length === 0) return;
  try {
    store.save(kept);
    mayKeep = true;
  } catch {
    if (mayKeep) toast('This browser has no room to keep this chat. Export and delete old ones.');
    mayKeep = false;
  }
}

function changeSettings(system, sampling) {
  Object.assign(conversation, { system, sampling });
  keep(conversation);
  refresh();
}

function rename(id, title) {
  const renamed = id === conversation.id ? conversation : (running.get(id)?.conversation ?? store.load(id));
  if (!renamed) return;
  renamed.title = title;
  keep(renamed);
  if (renamed === conversation) refresh();
}

function remove(id) {
  const ongoing = running.get(id);
  if (ongoing) {
    ongoing.conversation.removed = true;
    ongoing.generation.stop();
  }
  store.remove(id);
  if (id === conversation.id) newChat();
}

// Models.

/// Fills the choice of models; says whether there are any.
async function loadModels() {
  const banner = byId('banner');
  try {
    models = await listModels(apiKey());
    banner.replaceChildren();
    modelChoice.replaceChildren(...models.map(({ id }) => h('option', { value: id }, id)));
    if (models.some(({ id }) => id === conversation.model)) modelChoice.value = conversation.model;
  } catch (error) {
    models = [];
    modelChoice.replaceChildren(h('option', { value: '' }, 'No model'));
    const retry = h('button', { type: 'button', onclick: loadModels }, 'Try again');
    const enterKey = h('button', { type: 'button', onclick: () => settings.open() }, 'Open settings');
    banner.replaceChildren(
      h(
        'div',
        { class: 'banner' },
        h('span', {}, `${error.message} ${error.advice ?? ''}`),
        error.kind === 'key' ? enterKey : retry,
      ),
    );
  }
  modelChoice.disabled = models.length === 0;
  showMeter();
  return models.length > 0;
}

// Keyboard.

/// On a phone's keyboard, Enter can only start a new line.
const onScreenKeyboard = matchMedia('(hover: none) and (pointer: coarse)');

function onPromptKey(event) {
  if (isPlainEnter(event) && !onScreenKeyboard.matches) {
    event.preventDefault();
    send();
  }
}

function onKey(event) {
  if (
    (event.ctrlKey || event.metaKey) &&
    !event.shiftKey &&
    !event.altKey &&
    event.key.toLowerCase() === 'k'
  ) {
    event.preventDefault();
    if (!byId('settings').open) newChat();
  }
  if (event.key === 'Escape' && !document.querySelector('dialog[open], :popover-open') && !sidebar.isOpen())
    stop();
}

prompt.addEventListener('keydown', onPromptKey);
prompt.addEventListener('input', () => {
  fitHeight(prompt);
  showSend();
});
document.addEventListener('keydown', onKey);
byId('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  send();
});
byId('stop').addEventListener('click', () => {
  stop();
  prompt.focus();
});
byId('skip').addEventListener('click', (event) => {
  event.preventDefault();
  prompt.focus();
});
modelChoice.addEventListener('change', showMeter);
addEventListener('hashchange', openFromAddress);
addEventListener('popstate', openFromAddress);
addEventListener('pagehide', () => {
  for (const ongoing of running.values()) {
    ongoing.generation.message.stopped = true;
    keep(ongoing.conversation);
  }
});

if (/Mac|iPhone|iPad/.test(navigator.platform)) byId('new-chat-keys').textContent = '⌘ K';
const opened = store.load(location.hash.replace(/^#\//, ''));
show(opened ?? conversation);
if (!onScreenKeyboard.matches) prompt.focus();
loadModels();
