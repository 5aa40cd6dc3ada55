"""Markdown and the nodes it must become, for browser_test.py."""


def code(language, text):
    return (
        f'<figure class="code" dir="ltr"><figcaption><span class="language">{language}</span>'
        '<button type="button" class="copy-code" aria-label="Copy code">'
        '<svg class="icon" aria-hidden="true"><use href="#icon-copy"></use></svg>'
        '<svg class="icon" aria-hidden="true"><use href="#icon-check"></use></svg></button></figcaption>'
        f'<pre tabindex="0"><code>{text}</code></pre></figure>'
    )


def link(address, text):
    return f'<a href="{address}" rel="noopener noreferrer" target="_blank">{text}</a>'


CASES = [
    ("", ""),
    ("plain", "<p>plain</p>"),
    ("two\nlines\n\nand more", "<p>two<br>lines</p><p>and more</p>"),
    # Headings.
    ("# One #\n###### Six", '<h3 class="level-1">One</h3><h6 class="level-6">Six</h6>'),
    ("#hashtag", "<p>#hashtag</p>"),
    ("# C#", '<h3 class="level-1">C#</h3>'),
    # Emphasis.
    ("*a* **b** ***c*** _d_ __e__ ~~f~~", "<p><em>a</em> <strong>b</strong> <em><strong>c</strong></em> <em>d</em> <strong>e</strong> <del>f</del></p>"),
    ("snake_case_name and 2*3*4", "<p>snake_case_name and 2<em>3</em>4</p>"),
    ("2 * 3 * 4 ** 5", "<p>2 * 3 * 4 ** 5</p>"),
    ("**a *b* c**", "<p><strong>a <em>b</em> c</strong></p>"),
    ("*foo**bar*", "<p><em>foo**bar</em></p>"),
    ("**open", "<p>**open</p>"),
    ("**a*", "<p>*<em>a</em></p>"),
    ("~a~ ~~~~", "<p>~a~ ~~~~</p>"),
    ("\\*no\\* \\\\ \\a", "<p>*no* \\ \\a</p>"),
    # Code.
    ("`a` ``b ` c`` ` d", "<p><code>a</code> <code>b ` c</code> ` d</p>"),
    ("`*a*` `` ` ``", "<p><code>*a*</code> <code>`</code></p>"),
    ("```py title\nx = 1\n\n  y\n```\nafter", code("py", "x = 1\n\n  y") + "<p>after</p>"),
    ("```\nopen <b>", code("text", "open &lt;b&gt;")),
    ("~~~\n```\n~~~", code("text", "```")),
    ("```` md\n```\n````", code("md", "```")),
    # Lists.
    ("- a\n- b\n\nc", '<ul class="tight"><li><p>a</p></li><li><p>b</p></li></ul><p>c</p>'),
    ("* a\n  * b\n    c\n* d", '<ul class="tight"><li><p>a</p><ul class="tight"><li><p>b<br>c</p></li></ul></li><li><p>d</p></li></ul>'),
    ("3) a\n4) b", '<ol class="tight" start="3"><li><p>a</p></li><li><p>b</p></li></ol>'),
    ("1. a\n\n2. b", "<ol><li><p>a</p></li><li><p>b</p></li></ol>"),
    ("1. a\n  - b\n2. c", '<ol class="tight"><li><p>a</p><ul class="tight"><li><p>b</p></li></ul></li><li><p>c</p></li></ol>'),
    ("1. a\n   ```\n   x\n   ```\n2. b", '<ol class="tight"><li><p>a</p>' + code("text", "x") + "</li><li><p>b</p></li></ol>"),
    ("text\n- a", '<p>text</p><ul class="tight"><li><p>a</p></li></ul>'),
    ("in\n1984. It was", "<p>in<br>1984. It was</p>"),
    ("- a\n+ b", '<ul class="tight"><li><p>a</p></li></ul><ul class="tight"><li><p>b</p></li></ul>'),
    (
        "- [x] a\n- [ ] b",
        '<ul class="tight"><li class="task"><input type="checkbox" disabled="" checked="" aria-label="done"><div class="task-text"><p>a</p></div></li>'
        '<li class="task"><input type="checkbox" disabled="" aria-label="to do"><div class="task-text"><p>b</p></div></li></ul>',
    ),
    ("-\n- a", '<ul class="tight"><li></li><li><p>a</p></li></ul>'),
    # Quotes and rules.
    ("> a\n> > b\nlazy", "<blockquote><p>a</p><blockquote><p>b<br>lazy</p></blockquote></blockquote>"),
    ("a\n---\n***\n_ _ _", "<p>a</p><hr><hr><hr>"),
    # Tables.
    (
        "before\n| a | b |\n|:-:|--:|\n| 1 | `x\\|y` |\n| 2 |\nafter",
        '<p>before</p><div class="table" tabindex="0" role="region" aria-label="Table"><table><thead><tr><th class="align-center">a</th>'
        '<th class="align-end">b</th></tr></thead><tbody><tr><td class="align-center">1</td><td class="align-end"><code>x|y</code></td></tr>'
        '<tr><td class="align-center">2</td><td class="align-end"></td></tr></tbody></table></div><p>after</p>',
    ),
    ("text\n4) a | b\n--|--", "<p>text<br>4) a | b<br>--|--</p>"),
    ("a | b\n--|--|--", "<p>a | b<br>--|--|--</p>"),
    # Links.
    ("[a *b*](https://x.y/z \"t\")", "<p>" + link("https://x.y/z", "a <em>b</em>") + "</p>"),
    ("[a](https://x.y/(z)) [b](<https://x.y>)", "<p>" + link("https://x.y/(z)", "a") + " " + link("https://x.y/", "b") + "</p>"),
    ("see https://x.y/a_b_c, or (https://x.y).", "<p>see " + link("https://x.y/a_b_c", "https://x.y/a_b_c") + ", or (" + link("https://x.y/", "https://x.y") + ").</p>"),
    ("<mailto:a@b.c>", "<p>" + link("mailto:a@b.c", "mailto:a@b.c") + "</p>"),
    ("![alt](https://x.y/i.png)", "<p>" + link("https://x.y/i.png", "alt") + "</p>"),
    ("[![a](https://x.y/i)](https://x.y/j)", "<p>" + link("https://x.y/j", "a") + "</p>"),
    ("[a](javascript:alert(1)) [b](/c) [d]", "<p>[a](javascript:alert(1)) [b](/c) [d]</p>"),
    # Text that is no Markdown.
    ("<b>x</b> &lt; &amp;amp; &#65; &bogus; a<br>b", "<p>&lt;b&gt;x&lt;/b&gt; &lt; &amp;amp; A &amp;bogus; a<br>b</p>"),
    ("\\(a_1 * b_1 * c\\)", '<p><span class="tex" dir="ltr">\\(a_1 * b_1 * c\\)</span></p>'),
    ("a\r\nb\r\n\r\n- c\r\n", '<p>a<br>b</p><ul class="tight"><li><p>c</p></li></ul>'),
]

# Shows texts whole, and again in random pieces; gives the first that differs.
# Besides the given ones these are mixtures of them, and of marks of Markdown.
INCREMENTAL = r"""(async () => {
  const { MarkdownView } = await import('%s/assets/markdown.js');
  const given = %s;
  const marks = ['\n', '\n\n', ' ', '  ', '   ', '\t', '-', '- ', '1. ', '2) ', '#', '# ', '>', '> ', '|', '|-|', 'a', 'b*', '**', '_', '`', '```',
    '~~~', '[', '](https://x.y)', 'http://a.b', '\\', '<', '&lt;', '- [ ] ', '---'];
  const below = (n) => Math.floor(Math.random() * n);
  const some = (n, list) => Array.from({ length: n }, () => list[below(list.length)]);
  const mixed = Array.from({ length: 300 }, () => some(4, given).join(some(1, ['', '\n', '\n\n'])));
  const random = Array.from({ length: 2000 }, () => some(1 + below(40), marks).join(''));
  for (const text of [...given, ...mixed, ...random]) {
    const [whole, grown] = [document.createElement('div'), document.createElement('div')];
    new MarkdownView(whole).update(text);
    const view = new MarkdownView(grown);
    const steps = [];
    for (let at = 0; at < text.length; ) {
      at = Math.min(text.length, at + 1 + below(9));
      steps.push(at);
      view.update(text.slice(0, at));
    }
    if (!whole.isEqualNode(grown)) return { text, steps, whole: whole.innerHTML, grown: grown.innerHTML };
  }
  return null;
})()"""

# Whether messages hold only the elements and addresses they may.
ASSERT_SAFE = """(() => {
  const tags = new Set('P BR EM STRONG DEL CODE PRE A H3 H4 H5 H6 UL OL LI HR BLOCKQUOTE FIGURE FIGCAPTION SPAN DIV TABLE THEAD TBODY TR TH TD INPUT BUTTON svg use'.split(' '));
  const elements = [...document.querySelectorAll('.content *')];
  return elements.every((e) => tags.has(e.tagName)
    && [...e.attributes].every(({ name }) => !name.startsWith('on') && !['style', 'src', 'srcdoc'].includes(name))
    && (e.tagName !== 'A' || (['http:', 'https:', 'mailto:'].includes(e.protocol) && e.rel.includes('noopener'))));
})()"""

# Shows a text.
SHOWN = """(async () => {
  const { MarkdownView } = await import('%s/assets/markdown.js');
  const box = document.createElement('div');
  new MarkdownView(box).update(%s);
  return box.innerHTML.replaceAll(' dir="auto"', '');
})()"""

# How many seconds 100,000 characters of each unit take.
HOSTILE = r"""(async () => {
  const { MarkdownView } = await import('%s/assets/markdown.js');
  const units = ['[', '](', '[](', '*a ', '**', '_a*', '`', '`a``', '<http:', 'http://%%', '> ', '- ', '\\(', '![', '|', '~~a', '&#', '1. a\n',
    'a|b\n-|-\n', '  - a\n', '>\n', '\n', '[a](https://x.y/', '    ', '# #', '```\n', '<br', '*'];
  const seconds = (text) => {
    const start = performance.now();
    new MarkdownView(document.createElement('div')).update(text);
    return (performance.now() - start) / 1000;
  };
  // Four times as much takes four times as long, and sixteen times where it is compared with itself. What is over at
  // once is not measured; whatever else the machine does makes some tries longer.
  const growth = (unit) => {
    const [few, many] = [25000, 100000].map((n) => unit.repeat(n / unit.length));
    const took = seconds(many);
    return took < 0.2 ? 4 : took / seconds(few);
  };
  return units.map((unit) => [unit, Math.min(growth(unit), growth(unit), growth(unit))]);
})()"""
