// Package key says which requests are the same to the cache, and which may be answered from it at all.
//
// A key is a SHA-256 of everything that an answer depends on and of everybody it may be shown to. A chat is hashed in the form in the
// middle (canon.Request), so that the request of an Anthropic client and that of an OpenAI client that ask for the same thing have one
// key. What canon has no place for (logit_bias, a prefix flag in a message) would be lost that way; it is found in the body, and
// hashed with the dialect and the stream flag, which keeps such answers to callers who can read them byte for byte. Requests that
// canon cannot carry at all, embeddings and completions are hashed as JSON: neither the order of members, nor white space, nor the
// spelling of numbers and strings makes a difference.
//
// What does not count: whether a stream is asked for (see above), stream_options, user, safety_identifier, metadata, prompt-cache
// marks and prompt_cache_*. Two dialects' words for a default count as that default only where both say so: tool_choice auto,
// parallel tool calls, one choice, text as the format. An absent temperature is not 1: servers have defaults of their own.
package key
