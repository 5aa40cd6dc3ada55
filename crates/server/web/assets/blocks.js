// The block structure of Markdown: what models write of CommonMark and
// GitHub's tables and task lists. Left out on purpose: raw HTML (it stays
// text), link definitions, setext headings (`---` under text is a rule, as
// models mean it) and indented code (models indent lists at will).
//
// Every block has `raw`, its source, and `line`, where it starts. Time is
// linear in the source; nesting deeper than DEPTH stays a paragraph.

const DEPTH = 12;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const FENCE = /^( *)(`{3,}|~{3,})(.*)$/;

/// The blocks of a text.
export function parseBlocks(source) {
  const lines = source.split('\n').map((line) => (line.endsWith('\r') ? line.slice(0, -1) : line));
  return blocks(lines, 0);
}

function blocks(lines, depth) {
  const found = [];
  let i = 0;
  while (i < lines.length) {
    if (isBlank(lines[i])) {
      i += 1;
      continue;
    }
    const { next, ...block } = blockAt(lines, i, depth);
    found.push({ ...block, line: i, raw: lines.slice(i, next).join('\n') });
    i = next;
  }
  return found;
}

/// The block that starts at a line, and `next`, the line after it.
function blockAt(lines, i, depth) {
  return (
    code(lines, i) ??
    heading(lines, i) ??
    rule(lines, i) ??
    (depth < DEPTH ? (quote(lines, i, depth) ?? list(lines, i, depth)) : null) ??
    table(lines, i) ??
    paragraph(lines, i)
  );
}

function isBlank(line) {
  return line.trim() === '';
}

/// The fence that a line opens.
function fenceOf(line) {
  const match = FENCE.exec(line);
  if (!match || (match[2][0] === '`' && match[3].includes('`'))) return null;
  return { indent: match[1].length, mark: match[2], info: match[3].trim() };
}

function closes(line, fence) {
  const mark = line.trim();
  return mark.length >= fence.mark.length && mark === fence.mark[0].repeat(mark.length);
}

function code(lines, i) {
  const fence = fenceOf(lines[i]);
  if (!fence) return null;
  let end = i + 1;
  while (end < lines.length && !closes(lines[end], fence)) end += 1;
  const text = lines
    .slice(i + 1, end)
    .map((line) => dedent(line, fence.indent))
    .join('\n');
  return { type: 'code', language: fence.info.split(/\s/)[0], text, next: Math.min(end + 1, lines.length) };
}

/// A line without up to `width` columns of leading spaces; a tab is four.
function dedent(line, width) {
  let at = 0;
  let column = 0;
  while (column < width && (line[at] === ' ' || line[at] === '\t')) {
    column += line[at] === '\t' ? 4 : 1;
    at += 1;
  }
  return line.slice(at);
}

function indentOf(line) {
  let column = 0;
  for (const c of line) {
    if (c === ' ') column += 1;
    else if (c === '\t') column += 4;
    else break;
  }
  return column;
}

function heading(lines, i) {
  const match = /^ {0,3}(#{1,6})(?:[ \t]|$)/.exec(lines[i]);
  if (!match) return null;
  const text = lines[i].slice(match[0].length).trim();
  const bare = text.replace(/#+$/, '');
  const closed = bare === '' || /[ \t]$/.test(bare);
  return { type: 'heading', level: match[1].length, text: closed ? bare.trim() : text, next: i + 1 };
}

function rule(lines, i) {
  return RULE.test(lines[i]) ? { type: 'rule', next: i + 1 } : null;
}

function quote(lines, i, depth) {
  if (!QUOTE.test(lines[i])) return null;
  const inner = [];
  let end = i;
  while (end < lines.length) {
    const line = lines[end];
    const lazy = end > i && !isBlank(inner[inner.length - 1]) && !isBlank(line) && !interrupts(line);
    if (!QUOTE.test(line) && !lazy) break;
    inner.push(line.replace(QUOTE, ''));
    end += 1;
  }
  return { type: 'quote', blocks: blocks(inner, depth + 1), next: end };
}

/// The list marker that starts a line: its indent, the width up to the item's
/// text, and the kind that all items of a list share.
function markerOf(line) {
  const match = /^([ \t]*)([-*+]|(\d{1,9})[.)])([ \t]+|$)/.exec(line);
  if (!match || RULE.test(line)) return null;
  const [whole, space, mark, number, gap] = match;
  const indent = indentOf(space);
  const wide = gap.length > 4 || gap.length === 0 ? 1 : gap.length;
  return {
    indent,
    width: indent + mark.length + wide,
    kind: mark[mark.length - 1],
    number: number === undefined ? undefined : Number(number),
    text: gap.length > 4 ? line.slice(space.length + mark.length + 1) : line.slice(whole.length),
  };
}

function list(lines, i, depth) {
  const first = markerOf(lines[i]);
  if (!first) return null;
  const items = [];
  let tight = true;
  let end = i;
  let at = i;
  while (at < lines.length) {
    const marker = markerOf(lines[at]);
    if (!marker || marker.kind !== first.kind || (at > i && marker.indent >= first.indent + 2)) break;
    if (at > end) tight = false;
    end = itemEnd(lines, at, marker);
    const item = listItem(lines.slice(at, end), marker, depth);
    items.push(item);
    tight &&= item.tight;
    at = end;
    while (at < lines.length && isBlank(lines[at])) at += 1;
  }
  return { type: 'list', ordered: first.number !== undefined, start: first.number, tight, items, next: end };
}

/// The line after an item's last: what is indented to its text, what continues
/// its paragraph, and whole fenced blocks, which models often indent badly.
function itemEnd(lines, i, marker) {
  let end = i + 1;
  let fence = fenceOf(marker.text);
  for (let at = i + 1; at < lines.length; at += 1) {
    const line = lines[at];
    if (isBlank(line)) continue;
    if (fence) {
      if (closes(line, fence)) fence = null;
    } else {
      const indent = indentOf(line);
      const nested = indent >= marker.width || (indent >= marker.indent + 2 && markerOf(line));
      const lazy = end === at && !interrupts(line) && !markerOf(line);
      if (!nested && !lazy) break;
      fence = fenceOf(line);
    }
    end = at + 1;
  }
  return end;
}

function listItem(lines, marker, depth) {
  const inner = [marker.text, ...lines.slice(1).map((line) => dedent(line, marker.width))];
  const task = /^\[([ xX])\](?:[ \t]+|$)/.exec(inner[0]);
  if (task) inner[0] = inner[0].slice(task[0].length);
  const children = blocks(inner, depth + 1);
  const tight = children.every((block, i) => i === 0 || !isBlank(inner[block.line - 1]));
  return { blocks: children, tight, done: task ? task[1] !== ' ' : undefined, raw: lines.join('\n') };
}

function table(lines, i) {
  if (!lines[i].includes('|') || i + 1 >= lines.length) return null;
  const align = alignments(lines[i + 1]);
  const header = cells(lines[i]);
  if (!align || align.length !== header.length) return null;
  const rows = [];
  let end = i + 2;
  while (end < lines.length && lines[end].includes('|') && !interrupts(lines[end])) {
    const row = cells(lines[end]);
    rows.push({ cells: align.map((_, column) => row[column] ?? ''), raw: lines[end] });
    end += 1;
  }
  return { type: 'table', align, header, rows, next: end };
}

/// Whether a table starts below a paragraph; not with what looks like an item.
function startsTable(lines, i) {
  return markerOf(lines[i]) === null && table(lines, i) !== null;
}

function alignments(line) {
  if (!/^[-|: \t]+$/.test(line) || !line.includes('-')) return null;
  const marks = cells(line);
  if (!marks.every((mark) => /^:?-+:?$/.test(mark))) return null;
  return marks.map((mark) => {
    if (mark.endsWith(':')) return mark.startsWith(':') ? 'center' : 'end';
    return mark.startsWith(':') ? 'start' : '';
  });
}

/// The cells of a row; `\|` is a bar within a cell.
function cells(line) {
  const text = line.trim();
  const found = [];
  let cell = '';
  for (let at = text.startsWith('|') ? 1 : 0; at < text.length; at += 1) {
    if (text[at] === '\\' && text[at + 1] === '|') {
      cell += '|';
      at += 1;
    } else if (text[at] === '|') {
      found.push(cell.trim());
      cell = '';
    } else {
      cell += text[at];
    }
  }
  if (cell.trim() !== '' || found.length === 0) found.push(cell.trim());
  return found;
}

function paragraph(lines, i) {
  let end = i + 1;
  while (end < lines.length && !isBlank(lines[end]) && !interrupts(lines[end]) && !startsTable(lines, end))
    end += 1;
  const text = lines
    .slice(i, end)
    .map((line) => line.trim())
    .join('\n');
  return { type: 'paragraph', text, next: end };
}

/// Whether a line ends a paragraph above it. As in CommonMark, an empty item
/// or a number other than 1 does not: it is likelier part of a sentence.
function interrupts(line) {
  if (fenceOf(line) || heading([line], 0) || RULE.test(line) || QUOTE.test(line)) return true;
  const marker = markerOf(line);
  return marker !== null && marker.text !== '' && (marker.number === undefined || marker.number === 1);
}
