// Package media judges images in requests the way the providers do: the media type must be one they
// read, the data must be base64, and bytes that are clearly another format are refused.
package media

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// types are the image types that all simulated providers read.
var types = []string{"image/jpeg", "image/png", "image/gif", "image/webp"}

// Errors of Image, for the dialects to put into their own words.
var (
	ErrType   = errors.New("unsupported media type")
	ErrBase64 = errors.New("invalid base64")
	ErrEmpty  = errors.New("no image data")
)

// Allowed tells whether an image media type is read.
func Allowed(mediaType string) bool { return slices.Contains(types, mediaType) }

// Image checks base64 image data and returns its decoded size in bytes. Padding is required, as it
// is by the providers; white space is not allowed.
func Image(mediaType, data string) (int, error) {
	if !Allowed(mediaType) {
		return 0, fmt.Errorf("%w %q", ErrType, mediaType)
	}
	if data == "" {
		return 0, ErrEmpty
	}
	if strings.ContainsAny(data, "\r\n") {
		return 0, ErrBase64
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(data)
	if err != nil {
		return 0, ErrBase64
	}
	if found := http.DetectContentType(raw); found != mediaType && Allowed(found) {
		return 0, fmt.Errorf("%w: it is declared as %s but its bytes are %s", ErrType, mediaType, found)
	}
	return len(raw), nil
}

// DataURI splits a data URI with base64 data. It reports false for any other string.
func DataURI(s string) (mediaType, data string, ok bool) {
	rest, found := strings.CutPrefix(s, "data:")
	if !found {
		return "", "", false
	}
	head, data, found := strings.Cut(rest, ",")
	if !found {
		return "", "", false
	}
	mediaType, found = strings.CutSuffix(head, ";base64")
	return strings.ToLower(mediaType), data, found
}

// Remote tells whether a string is an http or https URL with a host.
func Remote(s string) bool {
	for _, scheme := range []string{"http://", "https://"} {
		if rest, ok := strings.CutPrefix(s, scheme); ok && rest != "" && rest[0] != '/' && !strings.ContainsAny(rest, " \t\n") {
			return true
		}
	}
	return false
}
