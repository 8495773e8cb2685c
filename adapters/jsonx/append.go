// Package jsonx holds the little that the dialects need beside encoding/json: appending strings
// without allocation, checking a body once and then walking it without a tree, and changing one
// member of an object in place.
package jsonx

import (
	"strconv"
	"unicode/utf8"
)

const hex = "0123456789abcdef"

// AppendString appends s as a JSON string. Bytes that are not UTF-8 become U+FFFD, one each.
// U+2028, U+2029, < and > stay as they are: they are legal JSON, and no dialect is read as script.
func AppendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	return append(AppendEscaped(dst, s), '"')
}

// AppendEscaped appends s as the inside of a JSON string, without quotes.
func AppendEscaped(dst []byte, s string) []byte {
	if !utf8.ValidString(s) {
		s = string([]rune(s))
	}
	b, start := bytesOf(s), 0
	for i := 0; ; i++ {
		i = skipPlain(b, i)
		for i < len(s) && s[i] >= 0x20 && s[i] != '"' && s[i] != '\\' {
			i++ // one of the last seven
		}
		dst = append(dst, s[start:i]...)
		if i == len(s) {
			return dst
		}
		switch c := s[i]; c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		start = i + 1
	}
}

// Builder collects a JSON text. Its methods append; the zero value is ready.
type Builder struct {
	Text []byte
}

// Raw appends a piece of JSON as it is.
func (b *Builder) Raw(s string) { b.Text = append(b.Text, s...) }

// Bytes appends a piece of JSON as it is.
func (b *Builder) Bytes(v []byte) { b.Text = append(b.Text, v...) }

// Str appends a string.
func (b *Builder) Str(s string) { b.Text = AppendString(b.Text, s) }

// Int appends a whole number.
func (b *Builder) Int(n int64) { b.Text = strconv.AppendInt(b.Text, n, 10) }

// Num appends a number in as few digits as tell it.
func (b *Builder) Num(f float64) { b.Text = strconv.AppendFloat(b.Text, f, 'g', -1, 64) }

// Bool appends true or false.
func (b *Builder) Bool(v bool) { b.Text = strconv.AppendBool(b.Text, v) }
