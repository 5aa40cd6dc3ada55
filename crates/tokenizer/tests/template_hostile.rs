//! Chat templates that attack: each must end in a typed error, soon, without
//! filling the memory and without overflowing the stack.

use std::time::{Duration, Instant};

use quarrel_tokenizer::template::{ChatInput, Error, Message, SpecialTokens, Template};

/// Many times what any of these takes (0.7 s at most in a debug build).
const TIME: Duration = Duration::from_secs(20);

/// Peak resident memory of the test process. The fuel of a short conversation
/// pays for 64 MiB at 64 bytes a unit; some of the engine's filters hold their
/// input beside their result.
const PEAK_MIB: u64 = 200;

fn outcome(source: &str) -> Result<String, Error> {
    let chat = ChatInput { messages: vec![Message::new("user", "x")], ..ChatInput::default() };
    Template::parse(source, SpecialTokens::default())?.render(&chat)
}

/// Runs each source; `expected` says which errors will do.
fn all_fail(sources: &[String], expected: fn(&Error) -> bool) {
    for source in sources {
        let shown: String = source.chars().take(120).collect();
        let start = Instant::now();
        match outcome(source) {
            Ok(text) => panic!("{shown}: rendered {} bytes", text.len()),
            Err(e) => assert!(expected(&e), "{shown}: {e:?}"),
        }
        assert!(start.elapsed() < TIME, "{shown}: took {:?}", start.elapsed());
    }
    #[cfg(target_os = "linux")]
    {
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("Linux has it");
        let kib: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
        assert!(kib / 1024 < PEAK_MIB, "peak memory {} MiB", kib / 1024);
    }
}

fn sources(sources: &[&str]) -> Vec<String> {
    sources.iter().map(|&source| source.to_owned()).collect()
}

/// 60 rounds of a `set` in a loop, then `end`.
fn rounds(set: &str, end: &str) -> String {
    format!(
        "{{% set ns = namespace(l=[1], m=[1], s='ab') %}}\
         {{% for i in range(60) %}}{{% set {set} %}}{{% endfor %}}{end}"
    )
}

#[test]
fn sandbox_escapes() {
    let attacks = sources(&[
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ lipsum.__globals__['os'] }}",
        "{{ messages.__class__.__base__ }}",
        "{{ ''|attr('__class__')|attr('__mro__') }}",
        "{{ '{0.__class__.__init__}'.format(messages) }}",
        "{{ raise_exception.__globals__['x'] }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% from 'os' import popen %}",
        "{% extends 'chat' %}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'system'}) }}",
        "{{ messages[0].pop('role') }}",
    ]);
    all_fail(&attacks, |e| matches!(e, Error::Failed { .. } | Error::Syntax { .. }));
}

#[test]
fn nesting() {
    let deep =
        |open: &str, close: &str, n: usize| [format!("{{{{ {}1{} }}}}", open.repeat(n), close.repeat(n))];
    for (open, close) in
        [("(", ")"), ("[", "]"), ("-", ""), ("not ", ""), ("{1:", "}"), ("f(", ")"), ("1+", "")]
    {
        all_fail(&deep(open, close, 10_000), |e| matches!(e, Error::TagTooLong { .. }));
    }
    // As deep as a tag may be: what the limit lets through must not overflow.
    for (open, close) in [("(", ")"), ("[", "]"), ("{1:", "}")] {
        all_fail(&deep(open, close, 300), |e| matches!(e, Error::Syntax { .. }));
    }
    for (open, close) in [("-", ""), ("1~", ""), ("1**", ""), ("", "|d"), ("", ".a"), ("1 if 0 else ", "")] {
        let _ = outcome(&deep(open, close, 399)[0]);
    }
    let blocks = |open: &str, close: &str| [format!("{}{}", open.repeat(4000), close.repeat(4000))];
    for (open, close) in [
        ("{% if 1 %}", "{% endif %}"),
        ("{% for x in y %}", "{% endfor %}"),
        ("{% macro a() %}", "{% endmacro %}"),
        ("{% set x %}", "{% endset %}"),
    ] {
        all_fail(&blocks(open, close), |e| matches!(e, Error::Syntax { .. }));
    }
    let elifs = format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(10_000));
    assert_eq!(outcome(&elifs).expect("long, not deep"), "");
    all_fail(&["x".repeat(200 << 10)], |e| matches!(e, Error::TooLong { .. }));
}

#[test]
fn recursion() {
    let attacks = sources(&[
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(x) %}{{ g([x]) }}{% endmacro %}{% macro g(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.x = [{'a': ns}] %}{{ ns ~ '' }}",
        "{% set ns = namespace() %}{% set ns.x = dict(a=ns) %}{{ ns == ns.x }}",
    ]);
    all_fail(&attacks, |e| matches!(e, Error::Failed { .. }));
    let deep = [
        "{% set ns = namespace(l=1) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}"
            .to_owned(),
        "{% set ns = namespace(l=1) %}{% for i in range(9999) %}{% set ns.l = {'a': ns.l} %}{% endfor %}"
            .to_owned(),
    ];
    all_fail(&deep, |e| matches!(e, Error::Failed { .. }));
}

#[test]
fn endless_work() {
    all_fail(&sources(&["{% for x in range(10**9) %}{% endfor %}", "{{ range(10**9)|list }}"]), |e| {
        matches!(e, Error::Failed { .. })
    });
    let mut attacks = sources(&[
        "{% for x in range(9**5) %}{% for y in range(9**5) %}{% endfor %}{% endfor %}",
        "{% macro f(x) %}{{ f([x, x]) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(x) %}{{ f(x + x) }}{% endmacro %}{{ f([1]) }}",
        "{% macro f(x) %}{% with y = x + x %}{{ f(y) }}{% endwith %}{% endmacro %}{{ f([1]) }}",
    ]);
    for end in ["{{ ns.l }}", "{{ ns.l ~ '' }}", "{{ ns.l|tojson }}", "{{ ns.l|join }}", "{{ ns.l == ns.m }}"]
    {
        attacks.push(rounds("ns.l = [ns.l, ns.l]", end));
    }
    attacks.push(rounds("ns.l = ns.l + ns.l", "{{ ns.l|length }}"));
    attacks.push(rounds("ns.l = ns.l * 2", "{{ ns.l|length }}"));
    attacks.push(rounds("ns.l = dict(a=ns.l, b=ns.l)", ""));
    all_fail(&attacks, |e| matches!(e, Error::Exhausted));
}

#[test]
fn endless_memory() {
    let mut attacks = sources(&[
        "{{ '-' * 10**10 }}",
        "{{ '-' * 99999999 }}",
        "{{ ([1] * 10**8)|list }}",
        "{{ ('a' * 100000)|replace('a', 'b' * 100000) }}",
        "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
        "{{ ('a' * 100000)|join('b' * 100000) }}",
        "{{ ('b' * 100000).join(range(99999)|map('string')|list) }}",
        "{{ 'x'.center(10**10) }}",
        "{{ 'x'.zfill(10**10) }}",
        "{{ '{:>9999999999}'.format(1) }}",
        "{{ ('{0}' * 30000).format('b' * 100000) }}",
        "{{ '%9999999999d'|format(1) }}",
        "{{ '%.999999999f'|format(1.0) }}",
        "{{ ('\\n' * 100000)|indent(100000, blank=true) }}",
        "{{ 'a'|indent(10**12, true) }}",
        "{{ [[1]]|tojson(indent=10**12) }}",
        "{{ [1]|batch(10**9, 0)|list }}",
        "{{ [1]|slice(10**9)|list }}",
    ]);
    attacks.push(rounds("ns.s = ns.s ~ ns.s", "{{ ns.s }}"));
    attacks.push(rounds("ns.s = ns.s + ns.s", "{{ ns.s }}"));
    all_fail(&attacks, |e| matches!(e, Error::Exhausted));
}

#[test]
fn refusals_carry_the_message() {
    match outcome("{{ raise_exception('only \"user\" may begin') }}") {
        Err(Error::Refused(message)) => assert_eq!(message, "only \"user\" may begin"),
        other => panic!("{other:?}"),
    }
}
