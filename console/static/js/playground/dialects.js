// The dialects that the gateway speaks to clients: the request that asks, and the text and the counts in what comes back. Pure.

/**
 * @typedef {{model: string, system: string, prompt: string, stream: boolean, maxTokens: number}} Question
 * @typedef {{text?: string, thinking?: string, error?: string, input?: number, output?: number, stop?: string}} Piece
 * @typedef {{id: string, label: string, request: (q: Question) => {path: string, headers: Record<string, string>, body: object}, read: (o: any) => Piece}} Dialect
 */

const messages = (q) => [...(q.system ? [{ role: 'system', content: q.system }] : []), { role: 'user', content: q.prompt }];

const words = (content) => (typeof content === 'string' ? content : (content ?? []).map((c) => c.text ?? '').join(''));

/** @type {Dialect[]} */
export const dialects = [
  {
    id: 'openai', label: 'OpenAI Chat Completions',
    request: (q) => ({
      path: '/v1/chat/completions', headers: {},
      body: { model: q.model, messages: messages(q), max_tokens: q.maxTokens, stream: q.stream, ...(q.stream && { stream_options: { include_usage: true } }) },
    }),
    read(o) {
      const c = o.choices?.[0];
      const m = c?.delta ?? c?.message;
      return { text: words(m?.content), thinking: m?.reasoning_content ?? m?.reasoning, stop: c?.finish_reason, error: o.error?.message, input: o.usage?.prompt_tokens, output: o.usage?.completion_tokens };
    },
  },
  {
    id: 'responses', label: 'OpenAI Responses',
    request: (q) => ({
      path: '/v1/responses', headers: {},
      body: { model: q.model, input: q.prompt, max_output_tokens: q.maxTokens, stream: q.stream, ...(q.system && { instructions: q.system }) },
    }),
    read(o) {
      const whole = o.response ?? (o.object === 'response' ? o : null);
      const piece = { input: whole?.usage?.input_tokens, output: whole?.usage?.output_tokens, error: o.error?.message ?? whole?.error?.message ?? (o.type === 'error' ? o.message : undefined), stop: whole?.status };
      if (o.type === 'response.output_text.delta') piece.text = o.delta;
      else if (/reasoning.*delta$/.test(o.type ?? '') && typeof o.delta === 'string') piece.thinking = o.delta;
      else if (o.object === 'response') piece.text = (o.output ?? []).filter((x) => x.type === 'message').map((x) => words(x.content)).join('');
      return piece;
    },
  },
  {
    id: 'anthropic', label: 'Anthropic Messages',
    request: (q) => ({
      path: '/v1/messages', headers: { 'anthropic-version': '2023-06-01' },
      body: { model: q.model, max_tokens: q.maxTokens, messages: [{ role: 'user', content: q.prompt }], stream: q.stream, ...(q.system && { system: q.system }) },
    }),
    read(o) {
      const usage = o.usage ?? o.message?.usage;
      const piece = { input: usage?.input_tokens, output: usage?.output_tokens, error: o.type === 'error' ? o.error?.message : undefined, stop: o.delta?.stop_reason ?? o.stop_reason };
      if (o.type === 'content_block_delta') Object.assign(piece, { text: o.delta?.text, thinking: o.delta?.thinking });
      else if (o.type === 'message') piece.text = words(o.content);
      return piece;
    },
  },
];

/** Reads server-sent events as bytes come: feed it text, and it calls back with each event's data. */
export function sseReader(onEvent) {
  let rest = '';
  let event = '';
  let data = [];
  return (text) => {
    rest += text;
    const lines = rest.split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === '') {
        if (data.length > 0) onEvent(event || 'message', data.join('\n'));
        event = '';
        data = [];
      } else if (line.startsWith('data:')) data.push(line.slice(5).replace(/^ /, ''));
      else if (line.startsWith('event:')) event = line.slice(6).trim();
    }
  };
}

/** What is known of an answer so far. */
export const nothing = () => ({ text: '', thinking: '', error: '', input: null, output: null, stop: '' });

/** Adds a piece to what is known. @param {ReturnType<typeof nothing>} a @param {Piece} p */
export const add = (a, p) => ({
  text: a.text + (p.text ?? ''), thinking: a.thinking + (p.thinking ?? ''), error: p.error || a.error,
  input: p.input || a.input, output: p.output ?? a.output, stop: p.stop || a.stop,
});
