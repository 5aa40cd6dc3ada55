"""What the tests of the chat page share."""
import json

TESTS = []

# The smallest contrast of text with its ground, over all that is shown.
CONTRAST = """(() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] === 255) return c; } return [255, 255, 255]; };
  let worst = [99, ''];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !e.checkVisibility({visibilityProperty: true, opacityProperty: true}) || e.closest('.sr-only, .skip, :disabled, noscript')) continue;
    const [a, b] = [light(rgba(getComputedStyle(e).color)), light(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < worst[0]) worst = [ratio, e.outerHTML.slice(0, 80)];
  }
  return worst;
})()"""

LAST = "[...document.querySelectorAll('.message')].at(-1)"
IDLE = "!document.body.classList.contains('busy')"


def test(needs_mock=False):
    def add(function):
        TESTS.append((function, needs_mock))
        return function

    return add


class Chat:
    """The page as a person uses it."""

    def __init__(self, page, url, mock, shots):
        self.page, self.url, self.mock, self.shots = page, url, mock, shots
        self.js, self.wait = page.js, page.wait
        page.open(url)
        self.ready()

    def ready(self):
        self.wait("document.querySelector('#model')?.disabled === false")

    def write(self, text):
        self.js("document.querySelector('#prompt').focus()")
        self.page.type(text)

    def send(self, text, wait=True):
        before = self.count()
        self.write(text)
        self.page.key("Enter")
        self.wait(f"document.querySelectorAll('.message').length > {before}")
        if wait:
            self.idle()

    def idle(self):
        self.wait(IDLE, 120)

    def count(self):
        return self.js("document.querySelectorAll('.message').length")

    def texts(self):
        return self.js("[...document.querySelectorAll('.message .content')].map((e) => e.textContent)")

    def reply(self):
        return self.js(f"{LAST}.querySelector('.content').textContent")

    def has(self, selector):
        return self.js(f"document.querySelector({json.dumps(selector)}) !== null")

    def shot(self, name):
        self.page.screenshot(self.shots / f"{name}.png")


def has_contrast(chat):
    """Holds the text on the page against WCAG's AA, in both themes."""
    for scheme in ("light", "dark"):
        chat.page.media(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
        ratio, where = chat.js(CONTRAST)
        assert ratio >= 4.5, f"{scheme}: contrast {ratio:.2f} of {where}"
    chat.page.media()


def same(found, wanted):
    assert found == wanted, f"\n   found {found!r}\n  wanted {wanted!r}"
