package peekjson

import (
	"regexp"
	"strings"
)

const (
	longString = 8192 // bytes that a string has at least that may be media
	sample     = 256  // bytes of such a string that are looked at
	around     = 512  // bytes before and after it that say what it is
	keyWindow  = 64   // bytes before a value in which its key is looked for
	mediaDepth = 16   // objects and arrays that media may be in
)

// The places and the keys of media in the dialects: the filter's sets of these names.
func mediaPath(key string) bool {
	switch key {
	case "messages", "content", "output", "source", "input_audio", "image_url", "video_url", "file":
		return true
	}
	return false
}

func mediaKey(key string) bool {
	return key == "file_data" || key == "image_data" || key == "b64_json"
}

func urlKey(key string) bool {
	switch key {
	case "url", "image_url", "image", "audio", "video":
		return true
	}
	return false
}

// countMedia counts the string between the quotes at open and closed if it is media: by the keys before it, and by its beginning.
func (r *reader) countMedia(open, closed int) {
	start := r.s[open+1:]
	start = start[:min(sample, len(start))]
	if strings.ContainsFunc(start, func(c rune) bool { return !isWord(c) && !strings.ContainsRune("+/=:;,.\\-", c) }) {
		return
	}
	outer := r.stack[len(r.stack)-1]
	inList := r.s[outer] == '['
	at := open
	if inList {
		at = outer
	}
	key, ok := r.keyBefore(at)
	if !ok {
		return
	}
	switch {
	case strings.HasPrefix(start, "data:"):
		if !urlKey(key) && !mediaKey(key) || !strings.Contains(start, ";base64,") || !mediaType(start) {
			return
		}
	case key == "data":
		parent, _ := r.keyBefore(outer)
		if parent != "input_audio" && (parent != "source" || !r.saysBase64(outer, open, closed)) {
			return
		}
	case !mediaKey(key):
		return
	}
	path := r.stack
	if inList { // the last thing on the path is a list of pictures, under a key of its own
		path = path[:len(path)-1]
	}
	if !r.mediaPlace(path) {
		return
	}
	r.found.Media += int64(closed - open - 1)
	r.found.MediaCount++
}

func isWord(c rune) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
}

// mediaType says whether a data URL has a type that is no text; of files PDF alone.
func mediaType(url string) bool {
	rest := strings.TrimPrefix(url, "data:")
	n := 0
	for n < len(rest) && rest[n] >= 'a' && rest[n] <= 'z' {
		n++
	}
	switch rest[:n] {
	case "image", "audio", "video":
		return true
	}
	return strings.HasPrefix(rest, "application/pdf;") || strings.HasPrefix(rest, `application\/pdf;`)
}

const spaces = " \t\n\v\f\r"

// keyBefore is the key of the value that opens at i. There is none if it is an item of an array, or the key has other bytes than
// those of names.
func (r *reader) keyBefore(i int) (string, bool) {
	s := strings.TrimRight(r.s[max(0, i-keyWindow):i], spaces)
	s, ok := strings.CutSuffix(s, ":")
	if !ok {
		return "", false
	}
	if s, ok = strings.CutSuffix(strings.TrimRight(s, spaces), `"`); !ok {
		return "", false
	}
	from := len(s)
	for from > 0 && isWord(rune(s[from-1])) {
		from--
	}
	if from == len(s) || from < 2 || s[from-1] != '"' || s[from-2] == '\\' {
		return "", false
	}
	return s[from:], true
}

// mediaPlace says whether the values around one all stand where media may.
func (r *reader) mediaPlace(path []int) bool {
	if len(path) >= mediaDepth { // the outermost object is not on it
		return false
	}
	for n, at := range path {
		key, ok := r.keyBefore(at)
		switch {
		case !ok:
			if n == 0 || r.s[path[n-1]] != '[' {
				return false
			}
		case !mediaPath(key) && (n > 0 || key != "input"):
			return false
		}
	}
	return true
}

// saysBase64 says whether the object around the string, which opens at first, says that it is base64 and not text.
func (r *reader) saysBase64(first, open, closed int) bool {
	if open-first > around {
		return false
	}
	before := r.s[first+1 : open+1]
	after := r.s[closed:min(len(r.s), closed+around+1)]
	n := strings.IndexAny(after, "{}[]")
	if n < 0 || after[n] != '}' || strings.ContainsAny(before, "{}[]") {
		return false
	}
	both := before + after[:n+1]
	// Compiled for each picture: only explanations come here.
	says := func(pattern string) bool { return regexp.MustCompile(pattern).MatchString(both) }
	if strings.Contains(both, `\u`) || says(`"type"[\s\v]*:[\s\v]*"text"`) || strings.Contains(both, `"text/`) || strings.Contains(both, `"text\/`) {
		return false
	}
	return says(`"type"[\s\v]*:[\s\v]*"base64"`)
}
