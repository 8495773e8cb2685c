// Package sdktest holds no code: its tests drive the simulators with the official Go SDKs of OpenAI
// and Anthropic. They live apart because the SDKs take minutes to compile for the first time.
package sdktest
