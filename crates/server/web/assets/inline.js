// Inline Markdown to DOM nodes: emphasis, code, links, TeX left as it is.
// Only elements and attributes named here can come out, whatever the text
// says; time is linear in the text.

import { h } from './dom.js';

/// Longest run of `*`, `_` or `~` that marks emphasis, and most of them open at
/// once: hostile text cannot nest elements without bound.
const RUN = 6;
const OPEN = 60;

/// Longest address of a link, and most brackets open in it.
const ADDRESS = 2048;
const DEPTH = 32;

const SPECIAL = /[\\`*_~[\]!<&\n]|https?:\/\//g;
const PUNCTUATION = /[\p{P}\p{S}]/u;
const ENTITIES = {
  amp: '&',
  lt: '<',
  gt: '>',
  quot: '"',
  apos: "'",
  nbsp: '\u00a0',
  hellip: '…',
  mdash: '—',
  ndash: '–',
  times: '×',
  deg: '°',
};

/// The nodes of a text.
export function inline(text) {
  return new Parser(text).nodes();
}

/// The address if it is absolute and of a harmless kind, else null. The
/// browser's own parser judges, so that what it would open is what is judged.
export function safeAddress(address) {
  try {
    const url = new URL(address);
    return ['http:', 'https:', 'mailto:'].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

/// Where the first `)` stands that nothing opened, or the length.
function unpaired(text) {
  let depth = 0;
  for (let at = 0; at < text.length; at += 1) {
    if (text[at] === '(') depth += 1;
    if (text[at] === ')' && (depth -= 1) < 0) return at;
  }
  return text.length;
}

function link(address, children) {
  const element = h('a', { href: address, rel: 'noopener noreferrer', target: '_blank' }, ...children);
  // No link within a link.
  for (const inner of element.querySelectorAll('a')) inner.replaceWith(...inner.childNodes);
  return element;
}

class Parser {
  constructor(text) {
    this.text = text;
    this.at = 0;
    /// Strings, nodes, and `{ mark, length, opens, closes }` of emphasis.
    this.parts = [];
    /// Where `[` and `![` stand in `parts`.
    this.brackets = [];
    /// Closing marks that are known not to come any more.
    this.missing = new Set();
  }

  nodes() {
    while (this.at < this.text.length) {
      SPECIAL.lastIndex = this.at;
      const match = SPECIAL.exec(this.text);
      const until = match ? match.index : this.text.length;
      if (until > this.at) this.parts.push(this.text.slice(this.at, until));
      this.at = until;
      if (match) this.special(match[0]);
    }
    return emphasise(this.parts);
  }

  special(mark) {
    const taken =
      mark === '\\'
        ? this.escape()
        : mark === '`'
          ? this.code()
          : mark === '\n'
            ? this.push(h('br'), 1)
            : mark === '['
              ? this.bracket(1)
              : mark === '!'
                ? this.text[this.at + 1] === '[' && this.bracket(2)
                : mark === ']'
                  ? this.closeBracket()
                  : mark === '<'
                    ? this.angle()
                    : mark === '&'
                      ? this.entity()
                      : mark.startsWith('http')
                        ? this.bareAddress()
                        : this.run(mark);
    if (!taken) this.push(mark, mark.length);
  }

  /// Takes `length` characters as one part.
  push(part, length) {
    this.parts.push(part);
    this.at += length;
    return true;
  }

  escape() {
    const next = this.text[this.at + 1];
    // TeX is shown as it was written, so that its marks are no emphasis.
    if (next === '(' && this.tex('\\)')) return true;
    if (next === '[' && this.tex('\\]')) return true;
    return next !== undefined && /[!-/:-@[-`{-~]/.test(next) && this.push(next, 2);
  }

  tex(close) {
    const end = this.find(close, this.at + 2);
    if (end < 0) return false;
    const length = end + close.length - this.at;
    return this.push(
      h('span', { class: 'tex', dir: 'ltr' }, this.text.slice(this.at, this.at + length)),
      length,
    );
  }

  /// Where a closing mark comes next; one that is missing is looked for once.
  find(mark, from) {
    if (this.missing.has(mark)) return -1;
    const at = this.text.indexOf(mark, from);
    if (at < 0) this.missing.add(mark);
    return at;
  }

  code() {
    const length = this.lengthOf('`');
    const end = this.closingBackticks(length);
    if (end === undefined) return this.push('`'.repeat(length), length);
    let inner = this.text.slice(this.at + length, end).replaceAll('\n', ' ');
    if (inner.startsWith(' ') && inner.endsWith(' ') && inner.trim() !== '') inner = inner.slice(1, -1);
    return this.push(h('code', {}, inner), end + length - this.at);
  }

  /// Where the next run of exactly `length` backticks starts.
  closingBackticks(length) {
    if (!this.backticks) {
      this.backticks = new Map();
      for (const run of this.text.matchAll(/`+/g)) {
        const starts = this.backticks.get(run[0].length) ?? { at: 0, list: [] };
        starts.list.push(run.index);
        this.backticks.set(run[0].length, starts);
      }
    }
    const starts = this.backticks.get(length);
    while (starts && starts.list[starts.at] < this.at + length) starts.at += 1;
    return starts?.list[starts.at];
  }

  lengthOf(mark) {
    let end = this.at;
    while (this.text[end] === mark) end += 1;
    return end - this.at;
  }

  bracket(length) {
    this.brackets.push({ part: this.parts.length, image: length === 2 });
    return this.push(length === 2 ? '![' : '[', length);
  }

  closeBracket() {
    const opener = this.brackets.pop();
    const target = opener && this.destination();
    if (!target) return false;
    const children = this.parts.splice(opener.part).slice(1);
    // No outside address is ever fetched: a picture is a link to it.
    if (opener.image && children.length === 0) children.push('image');
    if (!opener.image) this.brackets.length = 0;
    return this.push(link(target.address, [emphasise(children)]), target.length);
  }

  /// The `(address "title")` after `]`, with its length from `]` on.
  destination() {
    if (this.text[this.at + 1] !== '(') return null;
    const rest = this.text.slice(this.at + 2, this.at + 2 + ADDRESS);
    let end = 0;
    let depth = 0;
    while (end < rest.length && depth < DEPTH && !/\s/.test(rest[end])) {
      if (rest[end] === '(') depth += 1;
      if (rest[end] === ')' && (depth -= 1) < 0) break;
      end += 1;
    }
    const after = /^(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)/.exec(rest.slice(end));
    const address = safeAddress(rest.slice(0, end).replace(/^<(.*)>$/, '$1'));
    return after && address ? { address, length: 2 + end + after[0].length } : null;
  }

  angle() {
    const pattern = /<((?:https?:|mailto:)[^\s<>]*)>|<br ?\/?>/iy;
    pattern.lastIndex = this.at;
    const match = pattern.exec(this.text);
    if (!match) return false;
    if (match[1] === undefined) return this.push(h('br'), match[0].length);
    const address = safeAddress(match[1]);
    return address !== null && this.push(link(address, [match[1]]), match[0].length);
  }

  entity() {
    const pattern = /&(?:#x([0-9a-f]{1,6})|#(\d{1,7})|([a-z]{2,6}));/iy;
    pattern.lastIndex = this.at;
    const match = pattern.exec(this.text);
    if (!match) return false;
    const [whole, hex, decimal, name] = match;
    if (name !== undefined) return Object.hasOwn(ENTITIES, name) && this.push(ENTITIES[name], whole.length);
    const point = hex === undefined ? Number(decimal) : parseInt(hex, 16);
    const valid = point > 0 && point <= 0x10ffff && (point < 0xd800 || point > 0xdfff);
    return this.push(valid ? String.fromCodePoint(point) : '\ufffd', whole.length);
  }

  bareAddress() {
    if (/[\p{L}\p{N}]/u.test(this.text[this.at - 1] ?? '')) return false;
    let found = /^https?:\/\/[^\s<>"`|\\]+/.exec(this.text.slice(this.at, this.at + ADDRESS))?.[0];
    if (!found) return false;
    // Punctuation at the end belongs to the sentence.
    found = found.slice(0, unpaired(found)).replace(/[.,;:!?'*_~\]]+$/, '');
    const address = safeAddress(found);
    return address !== null && this.push(link(address, [found]), found.length);
  }

  /// A run of `*`, `_` or `~`, with CommonMark's rules for whether it may open
  /// or close emphasis.
  run(mark) {
    const length = this.lengthOf(mark);
    if (length > RUN || (mark === '~' && length !== 2)) return this.push(mark.repeat(length), length);
    const before = this.text[this.at - 1] ?? ' ';
    const after = this.text[this.at + length] ?? ' ';
    const [spaceBefore, spaceAfter] = [/\s/.test(before), /\s/.test(after)];
    const [pointBefore, pointAfter] = [PUNCTUATION.test(before), PUNCTUATION.test(after)];
    const left = !spaceAfter && (!pointAfter || spaceBefore || pointBefore);
    const right = !spaceBefore && (!pointBefore || spaceAfter || pointAfter);
    const opens = mark === '_' ? left && (!right || pointBefore) : left;
    const closes = mark === '_' ? right && (!left || pointAfter) : right;
    return this.push({ mark, length, opens, closes }, length);
  }
}

/// Nests the parts by their marks of emphasis.
function emphasise(parts) {
  /// Open marks, outermost first, each with the nodes after it.
  const open = [{ mark: '', left: 0, nodes: [] }];
  const innermost = () => open[open.length - 1];
  for (const part of parts) {
    if (typeof part === 'string' || part instanceof Node) {
      innermost().nodes.push(part);
      continue;
    }
    let left = part.length;
    while (part.closes && left > 0) {
      const at = open.findLastIndex((frame) => pairs(frame, part));
      if (at < 0) break;
      flatten(open, at + 1);
      left -= wrap(open, left);
    }
    if (left > 0 && part.opens && open.length < OPEN) open.push({ ...part, left, nodes: [] });
    else if (left > 0) innermost().nodes.push(part.mark.repeat(left));
  }
  flatten(open, 1);
  const fragment = document.createDocumentFragment();
  fragment.append(...open[0].nodes);
  fragment.normalize();
  return fragment;
}

/// CommonMark's rule of three: runs that could do both pair only if their
/// lengths cannot be mistaken.
function pairs(frame, part) {
  if (frame.mark !== part.mark) return false;
  const both = (frame.opens && frame.closes) || (part.opens && part.closes);
  const sum = frame.length + part.length;
  return !both || sum % 3 !== 0 || (frame.length % 3 === 0 && part.length % 3 === 0);
}

/// Closes the innermost mark with up to `left` characters; returns how many.
function wrap(open, left) {
  const frame = open[open.length - 1];
  const used = left >= 2 && frame.left >= 2 ? 2 : 1;
  const tag = frame.mark === '~' ? 'del' : used === 2 ? 'strong' : 'em';
  const element = h(tag, {}, ...frame.nodes);
  frame.left -= used;
  frame.nodes = [element];
  if (frame.left === 0) {
    open.pop();
    open[open.length - 1].nodes.push(element);
  }
  return used;
}

/// Turns open marks from `from` on back into text.
function flatten(open, from) {
  while (open.length > from) {
    const frame = open.pop();
    open[open.length - 1].nodes.push(frame.mark.repeat(frame.left), ...frame.nodes);
  }
}
