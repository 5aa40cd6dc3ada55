"""The tests of the chat page; browser_test.py runs them."""
import json
import pathlib
import tempfile
import time

from devtools import CONTROL, SHIFT
from harness import IDLE, LAST, has_contrast, same, test
from markdown_cases import ASSERT_SAFE, CASES, HOSTILE, INCREMENTAL, SHOWN
from mock_server import MARKDOWN, RTL, SHOWCASE, XSS

# What a reply looks like.


@test()
def a_message_is_answered_while_one_watches(chat):
    chat.js(
        "window.lengths = []; new MutationObserver(() => lengths.push(document.querySelector('.assistant .content')?.textContent.length ?? 0))"
        ".observe(document.querySelector('#messages'), {subtree: true, childList: true, characterData: true})"
    )
    chat.send("Tell me about the sea.")
    lengths = [length for length in chat.js("[...new Set(lengths)]") if length]
    assert len(lengths) > 2, f"did not grow: {lengths}"
    assert chat.reply(), "no reply"
    assert "tokens/s" in chat.js("document.querySelector('.assistant .stats').textContent")
    assert not chat.js("document.querySelector('#meter').hidden"), "no context meter"
    # A long one only from its beginning.
    assert chat.reply()[:500] in chat.js("document.querySelector('#status').textContent"), "not said to readers"


@test(needs_mock=True)
def markdown_becomes_nodes(chat):
    chat.send("markdown")
    found = chat.js(f"[...{LAST}.querySelector('.content').children].map((e) => e.tagName.toLowerCase() + (e.className ? '.' + e.className : ''))")
    same(found, ["h4.level-2", "p", "ol.tight", "ul.tight", "div.table", "blockquote", "figure.code", "hr", "p"])
    same(chat.js("document.querySelector('.content a').rel"), "noopener noreferrer")
    same(chat.js("document.querySelector('.content figure .language').textContent"), "rust")
    assert '"<b>not bold</b>"' in chat.js("document.querySelector('.content pre').textContent")
    same(chat.js("document.querySelectorAll('.content li li').length"), 2)
    same(chat.js("document.querySelector('#meter-text').textContent").split(" of ")[1], "8,192 tokens")
    same(chat.mock.requests[-1]["stream_options"], {"include_usage": True})


@test()
def markdown_is_as_specified(chat):
    for source, wanted in CASES:
        found = chat.js(SHOWN % (chat.url, json.dumps(source)))
        assert found == wanted, f"\n  source {source!r}\n   found {found!r}\n  wanted {wanted!r}"


@test()
def growing_markdown_ends_as_whole_markdown(chat):
    sources = [MARKDOWN, SHOWCASE, XSS, RTL] + [source for source, _ in CASES]
    same(chat.js(INCREMENTAL % (chat.url, json.dumps(sources))), None)


@test()
def hostile_markdown_takes_linear_time(chat):
    slow = [(unit, growth) for unit, growth in chat.js(HOSTILE % chat.url) if growth > 10]
    same(slow, [])


@test(needs_mock=True)
def reasoning_is_folded(chat):
    chat.send("think about it", wait=False)
    chat.wait("document.querySelector('.reasoning summary')?.textContent === 'Thinking…'")
    chat.idle()
    same(chat.js("document.querySelector('.reasoning').open"), False)
    assert chat.js("document.querySelector('.reasoning summary').textContent").startswith("Thought for ")
    assert "reason" not in chat.reply()
    chat.page.click(".reasoning summary")
    chat.wait("document.querySelector('.thoughts strong')?.textContent === 'reason'")
    chat.send("and echo that")
    assert "First I" not in json.dumps(chat.mock.requests[-1]), "thoughts went back to the server"


@test(needs_mock=True)
def right_to_left_text_reads_so(chat):
    chat.send("rtl مرحبا")
    found = chat.js("[...document.querySelectorAll('.assistant .content > *')].map((e) => getComputedStyle(e).direction)")
    same(found, ["rtl", "rtl", "ltr"])


# Safety.


@test(needs_mock=True)
def what_a_model_says_stays_text(chat):
    chat.js("document.addEventListener('securitypolicyviolation', (e) => (window.violated = e.violatedDirective))")
    chat.send("xss <img src=x onerror=window.pwned=1>")
    assert chat.js(ASSERT_SAFE), "an element or address that must not be"
    for text in ["<script>window.pwned = 1</script>", "<img src=x", "javascript:window.pwned=1", "<iframe"]:
        assert text in chat.reply(), f"{text} is not shown"
    same(chat.js("document.querySelector('.user .content').textContent"), "xss <img src=x onerror=window.pwned=1>")
    same(chat.js("[window.pwned ?? null, window.violated ?? null]"), [None, None])


@test(needs_mock=True)
def titles_models_and_errors_stay_text(chat):
    evil = "<img src=x onerror=window.pwned=1> busy"
    chat.send(evil)
    same(chat.js("document.querySelector('#chats a').textContent"), evil)
    chat.send("fail once <script>window.pwned=1</script>")
    assert "a <b>worker</b> panicked" in chat.js("[...document.querySelectorAll('.error .detail')].at(-1).textContent")
    same(chat.js("document.querySelector('#model').options[1].textContent"), "mock-1b-<b>bold</b>")
    chat.page.click("#chats .more")
    chat.page.click("#menu-rename")
    chat.js("document.querySelector('.rename').select()")
    chat.page.type("<b onclick=x>t</b>")
    chat.page.key("Enter")
    same(chat.js("document.querySelector('#chats a').textContent"), "<b onclick=x>t</b>")
    assert chat.js("document.title").startswith("<b onclick=x>t</b>")
    same(chat.js("document.querySelectorAll('#chats :is(b, img), .message :is(b, img, script)').length"), 0)
    same(chat.js("window.pwned ?? null"), None)


@test()
def the_policy_of_the_server_is_strict(chat):
    header = chat.js("fetch('').then((response) => response.headers.get('Content-Security-Policy'))") or ""
    directives = [part.split() for part in header.split(";") if part.split()]
    policy = {name: sources for name, *sources in directives}
    same(policy.get("default-src"), ["'none'"])
    for name in ("script-src", "style-src", "connect-src"):
        same(policy.get(name), ["'self'"])
    assert "frame-ancestors" in policy and "base-uri" in policy, header


# What a person can do.


@test()
def stopping_keeps_what_came(chat):
    slow = "slow, please" if chat.mock else "Count from 1 to 1000, one number a line."
    chat.send(slow, wait=False)
    chat.wait("document.querySelector('.assistant .content')?.textContent.length > 5")
    chat.page.click("#stop")
    chat.wait(IDLE, 2)
    kept = chat.reply()
    assert kept and "Stopped." in chat.js(f"{LAST}.querySelector('.notes').textContent")
    same(chat.js("document.activeElement.id"), "prompt")
    if chat.mock:
        for _ in range(100):
            if chat.mock.aborted:
                break
            time.sleep(0.05)
        same(chat.mock.aborted, 1)
    time.sleep(0.3)
    same(chat.reply(), kept)


@test(needs_mock=True)
def escape_stops_too(chat):
    chat.send("slow", wait=False)
    chat.wait("document.querySelector('.assistant .content')?.textContent.length > 5")
    chat.page.key("Escape")
    chat.wait(IDLE, 2)


@test()
def a_reply_can_be_made_anew(chat):
    chat.send("One")
    chat.send("Two")
    chat.page.click(".message.last .regenerate")
    chat.wait("document.body.classList.contains('busy')")
    chat.idle()
    same(chat.count(), 4)
    if chat.mock:
        same([m["role"] for m in chat.mock.requests[-1]["messages"]], ["user", "assistant", "user"])
        same(chat.mock.requests[-1], chat.mock.requests[-2])


@test()
def the_last_message_can_be_edited(chat):
    chat.send("First")
    chat.send("Secnd")
    same(chat.js("document.querySelectorAll('.edit').length"), 1)
    chat.page.click(".user .edit")
    chat.page.key("Escape")
    assert chat.texts()[2] == "Secnd"
    chat.page.click(".user .edit")
    chat.js("document.activeElement.select()")
    chat.page.type("Second")
    chat.page.key("Enter")
    chat.wait("document.body.classList.contains('busy')")
    chat.idle()
    texts = chat.texts()
    same([texts[0], texts[2], len(texts)], ["First", "Second", 4])


@test(needs_mock=True)
def messages_and_code_can_be_copied(chat):
    chat.page.browser.call("Browser.grantPermissions", browserContextId=chat.page.context, permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    chat.send("markdown")
    chat.page.click(".assistant .actions .copy")
    chat.wait("document.querySelector('.actions .done')")
    same(chat.js("navigator.clipboard.readText()"), MARKDOWN)
    chat.page.click(".copy-code")
    chat.wait("document.querySelector('.copy-code.done')")
    same(chat.js("navigator.clipboard.readText()"), 'fn main() {\n    println!("<b>not bold</b>");\n}')


@test(needs_mock=True)
def settings_go_into_the_request(chat):
    chat.send("plain")
    same(set(chat.mock.requests[-1]), {"model", "messages", "stream", "stream_options"})
    chat.page.click("#open-settings")
    values = {"temperature": "0.5", "top_p": "0.9", "top_k": "40", "min_p": "0.05", "max_tokens": "100", "seed": "7"}
    for name, value in {"system-prompt": "Be brief.", **values}.items():
        chat.js(f"document.getElementById('{name}').focus()")
        chat.page.type(value)
    has_contrast(chat)
    chat.shot("settings")
    chat.page.key("Escape")
    chat.send("again")
    request = chat.mock.requests[-1]
    same({name: request[name] for name in values}, {name: float(value) for name, value in values.items()})
    same(request["messages"][0], {"role": "system", "content": "Be brief."})
    assert chat.js("document.querySelector('#open-settings').classList.contains('marked')")
    chat.page.click("#open-settings")
    chat.js("document.getElementById('top_p').select()")
    chat.page.type("3")
    same(chat.js("document.querySelector('#top_p-problem').textContent"), "A number from 0 to 1")
    chat.page.click("#close-settings")
    chat.send("once more")
    assert "top_p" not in chat.mock.requests[-1]


@test(needs_mock=True)
def the_model_can_be_chosen(chat):
    chat.js("document.querySelector('#model').selectedIndex = 1; document.querySelector('#model').dispatchEvent(new Event('change'))")
    chat.send("hello")
    same(chat.mock.requests[-1]["model"], "mock-1b-<b>bold</b>")
    assert chat.js("document.querySelector('#meter-text').textContent").endswith("of 2,048 tokens")
    chat.page.reload()
    chat.ready()
    same(chat.js("document.querySelector('#model').selectedIndex"), 1)


@test(needs_mock=True)
def a_key_is_asked_for_and_kept_in_the_tab(chat):
    chat.send("locked")
    assert "wants an API key" in chat.js("document.querySelector('.error').textContent")
    chat.page.click(".error-actions button")
    chat.js("document.querySelector('#api-key').focus()")
    chat.page.type("secret")
    chat.page.click("#close-settings")
    chat.page.click(".retry")
    chat.wait("document.querySelector('.assistant .content').textContent === 'You said: locked'")
    same(chat.js("[sessionStorage['quarrel.key'], JSON.stringify(localStorage).includes('secret')]"), ["secret", False])


@test(needs_mock=True)
def errors_are_in_plain_words(chat):
    for said, words in {
        "busy": "The server is busy. Try again in 3 seconds.",
        "too long": "no longer fits into the model’s context",
        "stream error": "The server failed to reply.",
        "break off": "The reply broke off.",
    }.items():
        chat.send(said)
        assert words in chat.js("[...document.querySelectorAll('.error')].at(-1).textContent"), said
        assert words in chat.js("document.querySelector('#status').textContent"), f"{said}: not said to readers"
    same(chat.js("[...document.querySelectorAll('.retry')].filter((e) => !e.hidden).length"), 1)
    chat.send("fail once")
    chat.shot("error")
    has_contrast(chat)
    chat.page.click(".message:last-child .retry")
    chat.wait(f"{IDLE} && !{LAST}.querySelector('.error')")
    assert "fail once" in chat.reply()
    roles = [m["role"] for m in chat.mock.requests[-1]["messages"]]
    assert all(a != b for a, b in zip(roles, roles[1:])), roles


@test(needs_mock=True)
def no_server_is_said_plainly(chat):
    chat.mock.has_models = False
    chat.page.reload()
    chat.wait("document.querySelector('.banner')?.textContent.includes('not ready')")
    has_contrast(chat)
    chat.mock.has_models = True
    chat.page.click(".banner button")
    chat.ready()
    same(chat.has(".banner"), False)


# Conversations.


@test()
def chats_are_kept(chat):
    chat.send("The first chat")
    before = chat.texts()
    chat.page.reload()
    chat.ready()
    same(chat.texts(), before)
    chat.page.key("k", CONTROL)
    same(chat.count(), 0)
    chat.send("The second chat")
    same(chat.js("[...document.querySelectorAll('#chats a')].map((e) => e.textContent)"), ["The second chat", "The first chat"])
    chat.page.click("#chats li:last-child a")
    chat.wait("document.querySelector('.user .content')?.textContent === 'The first chat'")
    same(chat.texts(), before)
    chat.js("history.back()")
    chat.wait("document.querySelector('.user .content')?.textContent === 'The second chat'")


@test()
def chats_can_be_renamed_and_deleted(chat):
    chat.send("A chat")
    chat.page.click("#chats .more")
    chat.shot("menu")
    chat.page.click("#menu-rename")
    chat.js("document.querySelector('.rename').select()")
    chat.page.type("Another name")
    chat.page.key("Enter")
    chat.page.reload()
    chat.ready()
    same(chat.js("document.querySelector('#chats a').textContent"), "Another name")
    chat.page.click("#chats .more")
    chat.page.click("#menu-delete")
    same([chat.has("#chats li"), chat.count()], [False, 0])
    chat.page.click(".toast button")
    same(chat.has("#chats li"), True)
    chat.page.click("#chats .more")
    chat.page.click("#menu-delete")
    same(chat.js("Object.keys(localStorage).filter((key) => key.startsWith('quarrel.chat.')).length"), 0)


@test(needs_mock=True)
def chats_survive_a_file(chat):
    chat.send("markdown")
    file = chat.js(f"""(async () => {{
        const store = await import('{chat.url}/assets/store.js');
        return store.exported(store.list().map(({{ id }}) => store.load(id)));
    }})()""")
    data = json.loads(file)
    data["conversations"][0]["title"] = "<img src=x onerror=window.pwned=1>"
    data["conversations"][0]["messages"][1]["content"] += XSS
    imported(chat, json.dumps(data))
    chat.wait("document.querySelectorAll('#chats li').length === 2")
    chat.js("[...document.querySelectorAll('#chats a')].find((e) => e.textContent.startsWith('<img')).click()")
    chat.wait("document.title.startsWith('<img')")
    assert chat.js(ASSERT_SAFE)
    same(chat.js("window.pwned ?? null"), None)
    for bad in ["{", "{}", '{"format":"quarrel-chats","version":1,"conversations":[{"messages":[{"role":"x"}]}]}']:
        imported(chat, bad)
        chat.wait("/not JSON|does not hold|cannot be read/.test(document.querySelector('.toast')?.textContent)")
        chat.js("document.querySelector('#toast').replaceChildren()")
    same(chat.js("document.querySelectorAll('#chats li').length"), 2)


def imported(chat, text):
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
        file.write(text)
    node = chat.page.call("Runtime.evaluate", expression="document.querySelector('#import-file')")["result"]["objectId"]
    chat.page.call("DOM.setFileInputFiles", files=[file.name], objectId=node)
    time.sleep(0.2)
    pathlib.Path(file.name).unlink()


@test(needs_mock=True)
def a_reply_goes_on_while_another_chat_is_open(chat):
    chat.send("Tell me things while I am elsewhere, please", wait=False)
    chat.page.key("k", CONTROL)
    same(chat.count(), 0)
    chat.send("Quick")
    chat.wait("!document.querySelector('#chats .running')")
    chat.page.click("#chats li:last-child a")
    chat.wait("document.querySelector('.user .content')?.textContent.startsWith('Tell me')")
    same(chat.reply(), "You said: Tell me things while I am elsewhere, please")


@test(needs_mock=True)
def leaving_in_the_middle_keeps_what_came(chat):
    chat.send("slow", wait=False)
    chat.wait("document.querySelector('.assistant .content')?.textContent.length > 50")
    chat.page.reload()
    chat.ready()
    assert len(chat.reply()) > 20


# Looks.


@test(needs_mock=True)
def reading_further_up_is_not_disturbed(chat):
    chat.page.size(1280, 500)
    chat.send("slow", wait=False)
    distance = "(() => { const s = document.querySelector('#scroller'); return s.scrollHeight - s.scrollTop - s.clientHeight; })()"
    chat.wait("document.querySelector('#scroller').scrollHeight > 900")
    assert chat.js(distance) < 60, "does not follow"
    chat.page.call("Input.dispatchMouseEvent", type="mouseWheel", x=700, y=250, deltaX=0, deltaY=-250)
    chat.wait("!document.querySelector('#to-end').hidden")
    time.sleep(0.3)
    at = chat.js("document.querySelector('#scroller').scrollTop")
    time.sleep(0.5)
    same(chat.js("document.querySelector('#scroller').scrollTop"), at)
    chat.page.click("#to-end")
    chat.wait(f"{distance} < 60")
    time.sleep(0.3)
    assert chat.js(distance) < 60, "does not follow again"
    chat.page.key("Escape")


@test(needs_mock=True)
def long_replies_stay_smooth(chat):
    chat.js(
        "window.worst = 0; new PerformanceObserver((list) => list.getEntries().forEach((e) => (worst = Math.max(worst, e.duration))))"
        ".observe({type: 'longtask'})"
    )
    # Whatever else the machine does makes tasks longer: the best of three tries.
    tries = []
    while not tries or (min(tries) >= 250 and len(tries) < 3):
        chat.js("worst = 0")
        chat.send("long")
        same(chat.js(f"{LAST}.querySelectorAll('li').length"), 600)
        assert chat.reply().endswith("The end of a long reply.")
        tries.append(chat.js("worst"))
    assert min(tries) < 250, f"tasks of {tries} ms"


@test()
def dark_and_light_have_contrast(chat):
    if chat.mock:
        # For the pictures.
        for said in ("Names for a small grey cat", "How do I sharpen a kitchen knife?"):
            chat.send(said)
            chat.page.key("k", CONTROL)
    chat.send("Think about it: which format should I take?" if chat.mock else "Show me a table, a list and some code.")
    chat.js("document.querySelectorAll('details').forEach((e) => (e.open = true))")
    has_contrast(chat)
    chat.js("document.querySelectorAll('details').forEach((e) => (e.open = false))")
    grounds = []
    for scheme in ("light", "dark"):
        chat.page.media(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
        chat.page.reload()
        chat.ready()
        grounds.append(chat.js("getComputedStyle(document.body).backgroundColor"))
        chat.js("document.querySelector('#scroller').scrollTop = 0")
        time.sleep(0.1)
        chat.shot(scheme)
    assert grounds[0] != grounds[1]
    # Dark by the system, light by choice, also after a reload.
    chat.page.click("#open-settings")
    chat.js("document.querySelector('[name=theme][value=light]').click()")
    same(chat.js("getComputedStyle(document.body).backgroundColor"), grounds[0])
    chat.page.reload()
    same(chat.js("getComputedStyle(document.body).backgroundColor"), grounds[0])


@test()
def a_phone_needs_no_sideways_scrolling(chat):
    chat.page.size(360, 740, touch=True, scale=2)
    chat.page.reload()
    chat.ready()
    chat.shot("phone-empty")
    chat.write("I have 8 GB, which format should I take?" if chat.mock else "Show me a wide table and some code.")
    chat.page.click("#send")
    chat.wait("document.querySelector('.assistant')")
    chat.idle()
    chat.js("document.querySelector('#scroller').scrollTop = 0")
    chat.shot("phone")
    wide = "[document.documentElement.scrollWidth, document.querySelector('#scroller').scrollWidth]"
    same(chat.js(wide), [360, 360])
    same(chat.js("getComputedStyle(document.querySelector('#sidebar')).visibility"), "hidden")
    chat.page.click("#open-sidebar")
    chat.wait("document.querySelector('#sidebar').getBoundingClientRect().x === 0")
    same(chat.js("document.querySelector('#main').inert"), True)
    chat.shot("phone-drawer")
    chat.page.key("Escape")
    same(chat.js("[document.querySelector('#main').inert, document.activeElement.id]"), [False, "open-sidebar"])
    chat.page.click("#open-settings")
    same(chat.js(wide), [360, 360])
    chat.shot("phone-settings")


@test()
def little_motion_where_it_is_not_wanted(chat):
    chat.page.media(prefers_reduced_motion="reduce")
    same(chat.js("getComputedStyle(document.querySelector('#sidebar')).transitionDuration.split(',')[0]"), "0s")


@test()
def the_keyboard_is_enough(chat):
    page = chat.page
    same(chat.js("document.activeElement.id"), "prompt")
    page.type("line one")
    page.key("Enter", SHIFT)
    page.type("line two")
    same(chat.js("document.querySelector('#prompt').value"), "line one\nline two")
    page.key("Enter")
    chat.wait("document.querySelector('.assistant')")
    chat.idle()
    same(chat.texts()[0], "line one\nline two")
    # From the start of the page on, everything can be reached and is seen to be.
    chat.js("document.querySelector('#skip').focus()")
    order = ["skip"]
    for _ in range(40):
        page.key("Tab")
        state = chat.js("""(() => { const e = document.activeElement; const s = getComputedStyle(e);
            const seen = s.outlineStyle !== 'none' || getComputedStyle(e.parentElement).boxShadow !== 'none';
            return [e.id || e.className.split(' ').at(-1) || e.tagName, seen]; })()""")
        assert state[1], f"focus is not visible on {state[0]} after {order}"
        order.append(state[0])
        if state[0] == "prompt":
            break
    same(order[:3], ["skip", "new-chat", "A"])
    for name in ("more", "import", "export", "model", "open-settings", "copy", "edit", "regenerate", "prompt"):
        assert name in order, f"cannot reach {name}: {order}"
    # The menu, by arrows, and back.
    chat.js("document.querySelector('#chats .more').focus()")
    page.key("Enter")
    chat.wait("document.activeElement.id === 'menu-rename'")
    page.key("ArrowDown")
    page.key("ArrowDown")
    same(chat.js("document.activeElement.id"), "menu-delete")
    page.key("Escape")
    assert chat.js("document.activeElement.classList.contains('more')"), "focus is lost"
    page.key("k", CONTROL)
    same([chat.count(), chat.js("document.activeElement.id")], [0, "prompt"])


@test()
def everything_has_a_name(chat):
    chat.send("Think: which format?" if chat.mock else "Hello")
    chat.page.click("#open-settings")
    unnamed = chat.js("""[...document.querySelectorAll('button, input, select, textarea, a')]
        .filter((e) => !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length)).map((e) => e.outerHTML)""")
    same(unnamed, [])
    ids = chat.js("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    same(len(ids), len(set(ids)))
    missing = chat.js("""[...document.querySelectorAll('[aria-describedby], [aria-labelledby], [aria-controls]')]
        .flatMap((e) => ['aria-describedby', 'aria-labelledby', 'aria-controls'].flatMap((a) => (e.getAttribute(a) ?? '').split(' ')))
        .filter((id) => id && !document.getElementById(id))""")
    same(missing, [])
