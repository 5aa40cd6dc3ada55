// Conversations, kept in this browser: an index, and one entry each. What is
// read back, or imported, is untrusted and becomes a checked conversation.

const INDEX = 'quarrel.chats';
const ENTRY = 'quarrel.chat.';
const FORMAT = 'quarrel-chats';
const TITLE = 80;

/// The numbers of a request that a person may set, with their bounds.
export const SAMPLING = [
  { name: 'temperature', label: 'Temperature', hint: 'Higher is more varied', min: 0, max: 2 },
  { name: 'top_p', label: 'Top P', hint: 'Share of likelihood kept', min: 0, max: 1 },
  { name: 'top_k', label: 'Top K', hint: 'Number of candidates', min: 0, max: 1000000, whole: true },
  { name: 'min_p', label: 'Min P', hint: 'Least share of the best', min: 0, max: 1 },
  { name: 'max_tokens', label: 'Max tokens', hint: 'Longest reply', min: 1, max: 10000000, whole: true },
  {
    name: 'seed',
    label: 'Seed',
    hint: 'Same seed, same reply',
    min: 0,
    max: Number.MAX_SAFE_INTEGER,
    whole: true,
  },
];

/// A conversation without messages; settings go over from the one before.
export function newConversation({ system = '', sampling = {}, model = '' } = {}) {
  const now = Date.now();
  return {
    id: newId(),
    title: '',
    created: now,
    updated: now,
    system,
    sampling: { ...sampling },
    model,
    messages: [],
  };
}

/// Those kept, newest first, as `{ id, title, updated }`.
export function list() {
  const index = read(INDEX);
  if (!Array.isArray(index)) return [];
  const entries = index.filter((entry) => isId(entry?.id) && typeof entry.title === 'string');
  return entries.sort((a, b) => (b.updated ?? 0) - (a.updated ?? 0));
}

/// A conversation, or null where there is none that can be read.
export function load(id) {
  return isId(id) ? conversationFrom(read(ENTRY + id)) : null;
}

/// Keeps a conversation. Throws where the browser has no room or forbids it.
export function save(conversation) {
  const { id, title, updated } = conversation;
  localStorage.setItem(ENTRY + id, JSON.stringify(conversation));
  const others = list().filter((entry) => entry.id !== id);
  localStorage.setItem(INDEX, JSON.stringify([{ id, title, updated }, ...others]));
}

/// Forgets a conversation.
export function remove(id) {
  localStorage.removeItem(ENTRY + id);
  localStorage.setItem(INDEX, JSON.stringify(list().filter((entry) => entry.id !== id)));
}

/// Calls back when another tab changes what is kept.
export function onOthersChange(changed) {
  addEventListener('storage', (event) => {
    if (event.key === null || event.key === INDEX) changed();
  });
}

/// Conversations as the text of a file.
export function exported(conversations) {
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 2);
}

/// The conversations in a file's text. Throws an Error in plain words.
export function imported(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error('This file is not JSON.');
  }
  if (file?.format !== FORMAT || file.version !== 1 || !Array.isArray(file.conversations)) {
    throw new Error('This file does not hold chats exported from here.');
  }
  const taken = new Set(list().map((entry) => entry.id));
  const found = file.conversations.map(conversationFrom).filter((conversation) => conversation !== null);
  if (found.length < file.conversations.length)
    throw new Error('A chat in this file cannot be read; nothing was imported.');
  for (const conversation of found) {
    if (taken.has(conversation.id)) conversation.id = newId();
    taken.add(conversation.id);
  }
  return found;
}

/// The title for a conversation that starts with a text.
export function titleFrom(text) {
  const line = text.trim().split('\n')[0].trim();
  return line.length > TITLE ? `${line.slice(0, TITLE - 1).trimEnd()}…` : line;
}

function newId() {
  // Not randomUUID, which needs https or localhost.
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

function isId(value) {
  return typeof value === 'string' && /^[0-9a-f]{24}$/.test(value);
}

function read(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null;
  }
}

function conversationFrom(value) {
  if (value === null || typeof value !== 'object' || !Array.isArray(value.messages)) return null;
  const messages = value.messages.map(messageFrom);
  if (messages.includes(null)) return null;
  const sampling = {};
  for (const { name } of SAMPLING) {
    if (Number.isFinite(value.sampling?.[name])) sampling[name] = value.sampling[name];
  }
  return {
    id: isId(value.id) ? value.id : newId(),
    title: textFrom(value.title).slice(0, TITLE * 2),
    created: numberFrom(value.created) ?? Date.now(),
    updated: numberFrom(value.updated) ?? Date.now(),
    system: textFrom(value.system),
    sampling,
    model: textFrom(value.model),
    messages,
  };
}

function messageFrom(value) {
  if (typeof value?.content !== 'string') return null;
  if (value.role === 'user') return { role: 'user', content: value.content };
  if (value.role !== 'assistant') return null;
  const message = {
    role: 'assistant',
    content: value.content,
    reasoning: textFrom(value.reasoning),
    model: textFrom(value.model),
  };
  for (const flag of ['stopped', 'cut']) {
    if (value[flag] === true) message[flag] = true;
  }
  if (typeof value.error?.message === 'string') {
    const { message: what, advice, detail, kind } = value.error;
    message.error = {
      message: what,
      advice: textFrom(advice),
      detail: textFrom(detail),
      kind: textFrom(kind),
    };
  }
  const figures = ['tokens', 'total', 'rate', 'first', 'thought'].map((name) => [
    name,
    numberFrom(value.figures?.[name]),
  ]);
  message.figures = Object.fromEntries(figures.filter(([, number]) => number !== undefined));
  return message;
}

function textFrom(value) {
  return typeof value === 'string' ? value : '';
}

function numberFrom(value) {
  return Number.isFinite(value) ? value : undefined;
}
