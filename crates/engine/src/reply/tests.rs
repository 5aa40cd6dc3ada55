//! Replies of each format, whole and in pieces.

use super::*;
use crate::uniform;

const HERMES: ReplyFormat =
    ReplyFormat { reasoning: Some(("<think>", "</think>")), tools: Some(ToolFormat::Hermes), fenced: true };

fn format(tools: ToolFormat) -> ReplyFormat {
    ReplyFormat { tools: Some(tools), ..HERMES }
}

/// The deltas with neighbours of one kind joined.
fn joined(deltas: impl IntoIterator<Item = ReplyDelta>) -> Vec<ReplyDelta> {
    let mut all: Vec<ReplyDelta> = Vec::new();
    for delta in deltas {
        match (all.last_mut(), delta) {
            (Some(ReplyDelta::Content(a)), ReplyDelta::Content(b)) => a.push_str(&b),
            (Some(ReplyDelta::Reasoning(a)), ReplyDelta::Reasoning(b)) => a.push_str(&b),
            (_, delta) => all.push(delta),
        }
    }
    all
}

fn parse(format: &ReplyFormat, text: &str) -> Vec<ReplyDelta> {
    let mut parser = ReplyParser::new(format, true, false);
    let mut deltas = parser.push(text);
    deltas.extend(parser.finish());
    joined(deltas)
}

fn content(text: &str) -> ReplyDelta {
    ReplyDelta::Content(text.into())
}

fn call(index: usize, name: &str, arguments: &str) -> [ReplyDelta; 2] {
    let (name, json_fragment) = (name.into(), arguments.into());
    [ReplyDelta::ToolCallStart { index, name }, ReplyDelta::ToolCallArguments { index, json_fragment }]
}

#[test]
fn reasoning_is_told_from_content() {
    let reply = parse(&HERMES, "\n<think>\nwhy?\n</think>\n\nSo: <think> is a tag. \n");
    assert_eq!(reply, [ReplyDelta::Reasoning("why?".into()), content("So: <think> is a tag. \n")]);
    assert_eq!(parse(&HERMES, "<think>\nnever ends "), [ReplyDelta::Reasoning("never ends ".into())]);
    assert_eq!(parse(&HERMES, "<think></think>"), []);
    assert_eq!(parse(&HERMES, "<thin"), [content("<thin")]);
    assert_eq!(parse(&HERMES, "  a <think>b</think>"), [content("  a <think>b</think>")]);
    let mut parser = ReplyParser::new(&HERMES, false, true);
    let deltas = [parser.push("so </thi"), parser.push("nk> yes"), parser.finish()].concat();
    assert_eq!(joined(deltas), [ReplyDelta::Reasoning("so".into()), content("yes")]);
}

#[test]
fn hermes_calls() {
    let text = "<think>x</think>\nLet me see.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"</tool_call>\"}}\n\
                </tool_call>\n<tool_call>{\"name\":\"g\",\"arguments\":{}}</tool_call>\n";
    let expected = [
        vec![ReplyDelta::Reasoning("x".into()), content("Let me see.")],
        call(0, "f", "{\"a\":\"</tool_call>\"}").into(),
        call(1, "g", "{}").into(),
    ];
    assert_eq!(parse(&HERMES, text), expected.concat());
    // The end of a call may be cut off, and arguments may be a string.
    assert_eq!(parse(&HERMES, "<tool_call>{\"name\":\"g\",\"arguments\":\"{}\"}"), call(0, "g", "{}"));
}

#[test]
fn what_is_no_call_is_content() {
    for (text, reason) in [
        ("a\n<tool_call>\nfoo()</tool_call> b", "a tool call must be a JSON object"),
        ("a <tool_call>{\"name\": 1, \"arguments\": {}}</tool_call>", "a tool call has no name"),
        ("a <tool_call>{\"name\": \"f\"}</tool_call>", "a tool call has no arguments"),
        (
            "a <tool_call>{\"name\": \"f\", \"arguments\": 3}</tool_call>",
            "a tool call's arguments are not an object",
        ),
        ("a <tool_call>{'name'}</tool_call>", "a tool call is not valid JSON"),
        ("a <tool_call>{\"name\": \"f", "a tool call is not finished"),
        ("a <tool_call>", "a tool call is not finished"),
    ] {
        let reply = parse(&HERMES, text);
        let malformed = ReplyDelta::Malformed { reason: reason.into() };
        assert!(reply.contains(&malformed), "{text}: {reply:?}");
        let shown: String = reply
            .iter()
            .map(|delta| match delta {
                ReplyDelta::Content(text) => text.as_str(),
                _ => "",
            })
            .collect();
        assert_eq!(shown, text);
    }
    let mut parser = ReplyParser::new(&HERMES, false, false);
    let text = "<tool_call>{\"name\":\"g\",\"arguments\":{}}</tool_call>";
    assert_eq!(parser.push(text), [content(text)], "no tools were offered");
}

#[test]
fn llama_calls() {
    let format = format(ToolFormat::Llama3);
    let text = "\n{\"name\": \"f\", \"parameters\": {\"a\": 1}}; {\"name\": \"g\", \"parameters\": {}}";
    assert_eq!(parse(&format, text), [call(0, "f", "{\"a\":1}"), call(1, "g", "{}")].concat());
    let text = "Hm. <|python_tag|>{\"name\": \"f\", \"parameters\": {}}";
    assert_eq!(parse(&format, text), [vec![content("Hm.")], call(0, "f", "{}").into()].concat());
    for plain in ["{\"answer\": 42}", "{not json}", "{", "a {\"name\": \"f\", \"parameters\": {}}"] {
        assert_eq!(parse(&format, plain), [content(plain)]);
    }
}

#[test]
fn mistral_calls() {
    let format = format(ToolFormat::Mistral);
    let text =
        "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\", \"arguments\": {\"x\": [1]}}]";
    assert_eq!(parse(&format, text), [call(0, "f", "{}"), call(1, "g", "{\"x\":[1]}")].concat());
    let text = "[TOOL_CALLS]f[ARGS]{\"x\": 1}[TOOL_CALLS]g[CALL_ID]abc123[ARGS]{}";
    assert_eq!(parse(&format, text), [call(0, "f", "{\"x\":1}"), call(1, "g", "{}")].concat());
    for wrong in ["[TOOL_CALLS]f(x)", "[TOOL_CALLS][]", "[TOOL_CALLS]f[ARGS]3", "[TOOL_CALLS]f"] {
        let malformed = |delta: &ReplyDelta| matches!(delta, ReplyDelta::Malformed { .. });
        assert!(parse(&format, wrong).iter().any(malformed), "{wrong}");
    }
}

#[test]
fn gemma_calls() {
    let format = format(ToolFormat::Gemma);
    let text = "Sure.\n```tool_code\n{\"name\": \"f\", \"parameters\": {}}\n```\n";
    assert_eq!(parse(&format, text), [vec![content("Sure.")], call(0, "f", "{}").into()].concat());
    let text = "```json\n[{\"name\": \"f\", \"arguments\": {}}]\n```";
    assert_eq!(parse(&format, text), call(0, "f", "{}"));
    let text = "Here:\n```json\n{\"a\": 1}\n```\nDone.";
    assert_eq!(parse(&format, text), [content(text)]);
}

#[test]
fn formats_are_told_from_templates() {
    let tools = |source: &str| ReplyFormat::detect(source).tools;
    assert_eq!(tools("{{ '<tool_call>\\n' }}"), Some(ToolFormat::Hermes));
    assert_eq!(tools("<tool_call>\\n<function=f>"), None);
    assert_eq!(tools("[AVAILABLE_TOOLS] [TOOL_CALLS]"), Some(ToolFormat::Mistral));
    assert_eq!(tools("<|start_header_id|>ipython<|end_header_id|>"), Some(ToolFormat::Llama3));
    assert_eq!(tools("<start_of_turn>model"), Some(ToolFormat::Gemma));
    assert_eq!(tools("{{ messages }}"), None);
    let format = ReplyFormat::detect("content.split('</think>')");
    assert_eq!(format.reasoning, Some(("<think>", "</think>")));
    assert!(
        format.opens_reasoning("<|assistant|>\n<think>\n")
            && !format.opens_reasoning("<think>\n\n</think>\n\n")
    );
}

#[test]
fn any_cut_gives_the_same_reply() {
    const PIECES: [&str; 34] = [
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "[TOOL_CALLS]",
        "<|python_tag|>",
        "```tool_code\n",
        "```json\n",
        "```",
        "{\"name\": \"f\", \"arguments\": {\"a\": \"é}\\\"\"}}",
        "{\"name\": \"g\", \"parameters\": {}}",
        "{\"x\": 1}",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "\\",
        "[ARGS]",
        "[CALL_ID]",
        "f",
        " ",
        "\n",
        "\n\n",
        ";",
        "é",
        "\u{1F600}",
        "a b",
        "<",
        "<t",
        "[T",
        "`",
        "{bad}",
        "[{\"name\": \"h\", \"arguments\": {}}]",
    ];
    let formats = [ToolFormat::Hermes, ToolFormat::Llama3, ToolFormat::Mistral, ToolFormat::Gemma];
    for seed in 0..6000u64 {
        let random = |i: u64, n: usize| (uniform(seed, i) * n as f64) as usize;
        let text: String = (0..random(0, 12) as u64).map(|i| PIECES[random(10 + i, PIECES.len())]).collect();
        let format = format(formats[random(1, 4)]);
        let (with_tools, in_reasoning) = (random(2, 8) > 0, random(3, 4) == 0);
        let mut whole = ReplyParser::new(&format, with_tools, in_reasoning);
        let expected = joined([whole.push(&text), whole.finish()].concat());
        let mut parser = ReplyParser::new(&format, with_tools, in_reasoning);
        let (mut deltas, mut piece) = (Vec::new(), String::new());
        let often = 1 + random(4, 6);
        for (i, c) in text.chars().enumerate() {
            piece.push(c);
            if random(100 + i as u64, often) == 0 {
                deltas.extend(parser.push(&std::mem::take(&mut piece)));
            }
        }
        deltas.extend(parser.push(&piece));
        deltas.extend(parser.finish());
        assert_eq!(joined(deltas), expected, "{format:?} {text:?}");
    }
}

#[test]
fn calls_in_fences_are_read_and_other_json_is_shown() {
    let fenced = "Sure:\n```json\n{\"name\": \"f\", \"arguments\": {}}\n```\n";
    let expected = [vec![content("Sure:")], call(0, "f", "{}").into()].concat();
    assert_eq!(parse(&HERMES, fenced), expected);
    let other = "```json\n{\"a\": 1}\n``` and so on";
    assert_eq!(parse(&HERMES, other), [content(other)]);
    let exact = ReplyFormat { fenced: false, ..HERMES };
    assert_eq!(parse(&exact, fenced), [content(fenced)]);
}
