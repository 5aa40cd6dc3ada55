// A reply while it is being made: what goes to the server, and what comes back
// into a message. Knows nothing of the page.

import { ApiError, streamChat } from './api.js';

/// Seconds below which a rate would say nothing.
const SHORTEST = 0.05;

/// The body of the request for the next reply of a conversation.
export function requestFor(conversation, model) {
  const messages = conversation.system.trim() ? [{ role: 'system', content: conversation.system }] : [];
  for (const { role, content } of conversation.messages) {
    if (role === 'assistant' && content === '') continue;
    const last = messages[messages.length - 1];
    // Where a reply failed two messages of a person meet; many templates of
    // models insist on turns.
    if (last?.role === role) last.content += `\n\n${content}`;
    else messages.push({ role, content });
  }
  return { model, messages, ...conversation.sampling, stream: true, stream_options: { include_usage: true } };
}

/// An assistant's message to be filled.
export function emptyReply(model) {
  return { role: 'assistant', content: '', reasoning: '', model, figures: {} };
}

/// One reply in the making.
export class Generation {
  /// `changed` is called whenever `message` has changed.
  constructor(body, message, changed) {
    this.body = body;
    this.message = message;
    this.changed = changed;
    this.abort = new AbortController();
    this.chunks = 0;
  }

  stop() {
    this.abort.abort();
  }

  /// Fills the message; never throws: what goes wrong is in the message.
  async run(key) {
    const { message } = this;
    this.started = performance.now();
    try {
      for await (const chunk of streamChat(this.body, key, this.abort.signal)) this.take(chunk);
    } catch (error) {
      if (error.name === 'AbortError') message.stopped = true;
      else
        message.error = (
          error instanceof ApiError ? error : new ApiError('This page failed.', { detail: String(error) })
        ).plain();
    }
    this.endThought();
    this.changed();
  }

  take(chunk) {
    const { message } = this;
    const choice = chunk.choices?.[0];
    const { content, reasoning_content: reasoning } = choice?.delta ?? {};
    if (content || reasoning) {
      this.first ??= performance.now();
      this.last = performance.now();
      this.chunks += 1;
    }
    if (reasoning) message.reasoning += reasoning;
    if (content) {
      this.endThought();
      message.content += content;
    }
    if (choice?.finish_reason === 'length') message.cut = true;
    this.measure(chunk);
    this.changed();
  }

  endThought() {
    if (this.message.reasoning && this.message.figures.thought === undefined) {
      this.message.figures.thought = (performance.now() - this.first) / 1000;
    }
  }

  /// Until the server has counted, a chunk is taken for a token.
  measure({ usage, timings }) {
    if (this.first === undefined) return;
    const { figures } = this.message;
    const tokens = usage?.completion_tokens ?? Math.max(this.chunks, figures.tokens ?? 0);
    const seconds = (this.last - this.first) / 1000;
    figures.tokens = tokens;
    figures.first = (this.first - this.started) / 1000;
    if (usage) figures.total = usage.prompt_tokens + usage.completion_tokens;
    // The first token comes out of the prompt's time.
    if (tokens > 1 && seconds > SHORTEST) figures.rate = (tokens - 1) / seconds;
    if (timings?.predicted_per_second > 0) figures.rate = timings.predicted_per_second;
  }
}
