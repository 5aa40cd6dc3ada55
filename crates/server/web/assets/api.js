// The server's HTTP interface: models, and a reply as a stream of events.
// Addresses are relative, so that the page also works behind a path.

/// What went wrong, in words for a person: `message` says what, `advice` what
/// to do, `detail` is what the server said. `kind` is 'key' where a key helps.
export class ApiError extends Error {
  constructor(message, { advice = '', detail = '', kind = '' } = {}) {
    super(message);
    Object.assign(this, { advice, detail, kind });
  }

  /// What is kept with a message.
  plain() {
    return { message: this.message, advice: this.advice, detail: this.detail, kind: this.kind };
  }
}

/// The models on offer, as `{ id, context }`; the context may be unknown.
export async function listModels(key) {
  const response = await request('v1/models', { headers: headers(key) });
  const { data } = await response.json().catch(() => ({}));
  if (!Array.isArray(data)) throw new ApiError('The server answered something that is no list of models.');
  return data
    .filter((model) => typeof model?.id === 'string')
    .map((model) => ({ id: model.id, context: model.meta?.n_ctx ?? model.context_length }));
}

/// The chunks of a streamed chat completion. Ends at `[DONE]`, throws where the
/// stream ends before; stopping it by `signal` throws an AbortError.
export async function* streamChat(body, key, signal) {
  const init = {
    method: 'POST',
    headers: { ...headers(key), 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
    signal,
  };
  const response = await request('v1/chat/completions', init);
  try {
    for await (const data of events(response.body)) {
      if (data === '[DONE]') return;
      const chunk = parse(data);
      if (chunk.error) throw fromServer(chunk.error.code, chunk.error);
      yield chunk;
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === 'AbortError') throw error;
    throw brokenOff();
  }
  throw brokenOff();
}

function headers(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function request(path, init) {
  let response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError('The server cannot be reached.', {
      advice: 'It may have been stopped, or still be loading its model.',
    });
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw fromServer(response.status, body?.error, response.headers.get('Retry-After'));
}

function brokenOff() {
  return new ApiError('The reply broke off.', { advice: 'The connection to the server was lost.' });
}

function parse(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new ApiError('The server sent something that cannot be read.', { detail: data.slice(0, 200) });
  }
}

/// The data of the server-sent events in a stream of bytes.
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split('\n');
      rest = lines.pop();
      for (const ended of lines) {
        const line = ended.endsWith('\r') ? ended.slice(0, -1) : ended;
        if (line.startsWith('data:')) data.push(line.slice(line[5] === ' ' ? 6 : 5));
        if (line === '' && data.length > 0) {
          yield data.join('\n');
          data = [];
        }
      }
    }
  } finally {
    // Nobody reads on; a stream that has failed already says so again.
    reader.cancel().catch(() => {});
  }
}

function fromServer(status, error, retryAfter) {
  const detail = typeof error === 'string' ? error : (error?.message ?? '');
  const full = error?.code === 'context_length_exceeded' || error?.type === 'exceed_context_size_error';
  if (full) {
    return new ApiError('This chat no longer fits into the model’s context.', {
      advice: 'Start a new chat, or edit your last message to be shorter.',
      detail,
    });
  }
  const [message, advice, kind] = words(Number(status), retryAfter);
  return new ApiError(message, { advice, detail, kind });
}

/// What a status means, what to do about it, and the kind of the error.
function words(status, retryAfter) {
  switch (status) {
    case 401:
    case 403:
      return ['The server wants an API key.', 'Enter it in the settings, then try again.', 'key'];
    case 400:
    case 422:
      return ['The server did not accept the request.', 'The settings of this chat may be the reason.'];
    case 404:
      return ['The server does not have this model.', 'Choose another one above.'];
    case 413:
      return ['This chat is too large for the server.', 'Start a new chat, or shorten your message.'];
    case 429:
      return [
        'The server is busy.',
        retryAfter ? `Try again in ${retryAfter} seconds.` : 'Try again in a moment.',
      ];
    case 503:
      return ['The server is not ready.', 'It may still be loading the model. Try again in a moment.'];
    default:
      return ['The server failed to reply.', 'Trying again may help.'];
  }
}
