package openai

import (
	"net/url"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/internal/fields"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// readImage reads {"url":...,"detail":...}. A data URI becomes media type and content; Weir never
// fetches the other kind.
func readImage(v jsonx.Value) (*canon.Image, *canon.Error) {
	if v.Kind() != jsonx.Object {
		return nil, fields.WrongKind("", "an object", v)
	}
	link, err := fields.ReqString(v.Get("url"), "url")
	if err != nil {
		return nil, err
	}
	detail, err := fields.OptString(v.Get("detail"), "detail")
	if err != nil {
		return nil, err
	}
	return ParseImage(link, detail)
}

// ParseImage reads an image's URL and detail as both of OpenAI's APIs give them. An error names url or detail, without the fields
// around them, and its message continues that name to a sentence.
func ParseImage(link, detail string) (img *canon.Image, err *canon.Error) {
	img = &canon.Image{}
	switch detail {
	case "", "auto", "low", "high":
		img.Detail = detail
	case "original": // as sent, without scaling: high is the nearest that others can say
		img.Detail = "high"
	default:
		return nil, fields.Bad("detail", "must be auto, low, high or original, not %q", fields.Clip(detail))
	}
	if hasFold(link, "data:") {
		if img.MediaType, img.Data, err = dataURI(link[len("data:"):]); err != nil {
			return nil, err
		}
		return img, nil
	}
	if !hasFold(link, "http://") && !hasFold(link, "https://") {
		return nil, fields.Bad("url", "must start with https://, http:// or data:")
	}
	if u, e := url.Parse(link); e != nil || u.Host == "" {
		return nil, fields.Bad("url", "is not a valid URL")
	}
	img.URL = link
	return img, nil
}

// dataURI reads what stands after "data:", strictly: image/..., ;base64, and base64 in the standard
// alphabet with padding, since that is what every provider takes.
func dataURI(s string) (mediaType, data string, err *canon.Error) {
	head, data, ok := strings.Cut(s, ",")
	if !ok {
		return "", "", fields.Bad("url", "is a data URI without a comma before its content")
	}
	mediaType, ok = strings.CutSuffix(head, ";base64")
	if !ok {
		return "", "", fields.Bad("url", "is a data URI that is not ;base64")
	}
	mediaType = strings.ToLower(mediaType)
	subtype, ok := strings.CutPrefix(mediaType, "image/")
	if !ok || !isToken(subtype) {
		return "", "", fields.Bad("url", "is a data URI of type %q: it must be image/ and a subtype, without parameters", fields.Clip(mediaType))
	}
	if mediaType == "image/jpg" { // a common slip, which some providers refuse
		mediaType = "image/jpeg"
	}
	if !isBase64(data) {
		return "", "", fields.Bad("url", "is a data URI whose content is not base64 (standard alphabet, padded, nothing else)")
	}
	return mediaType, data, nil
}

func isToken(s string) bool {
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '+' || c == '-' || c == '.') {
			return false
		}
	}
	return s != ""
}

func isBase64(s string) bool {
	if s == "" || len(s)%4 != 0 {
		return false
	}
	s = strings.TrimSuffix(strings.TrimSuffix(s, "="), "=")
	for i := 0; i < len(s); i++ {
		if !base64Alphabet[s[i]] {
			return false
		}
	}
	return true
}

var base64Alphabet = func() (t [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") {
		t[c] = true
	}
	return t
}()

func hasFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}
