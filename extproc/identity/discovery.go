package identity

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// wellKnown is where OpenID Connect Discovery 1.0 section 4 puts the configuration of an issuer, below its identifier.
const wellKnown = "/.well-known/openid-configuration"

// Document is the URL that is fetched first: of the key set, or of the issuer's OpenID configuration.
func (at KeyLocation) Document() string {
	if at.Issuer != "" {
		return strings.TrimSuffix(at.Issuer, "/") + wellKnown
	}
	return at.URL
}

func (at KeyLocation) check() error {
	if at.Issuer == "" {
		_, err := keyURL(at.URL)
		return err
	}
	u, err := keyURL(at.Issuer)
	if err != nil {
		return fmt.Errorf("the issuer cannot be asked for its keys: %w; give keys.url instead", err)
	}
	if u.RawQuery != "" || u.ForceQuery {
		return errors.New("the issuer cannot be asked for its keys: it has a query; give keys.url instead")
	}
	return nil
}

// keyURL holds a URL to what keys may be fetched from.
func keyURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("it is not an absolute http or https URL")
	case u.User != nil:
		return nil, errors.New("it holds a user name or password, which would show in reports; signing keys are public and need none")
	case u.Fragment != "":
		return nil, errors.New("it has a fragment, which is not sent to a server")
	}
	return u, nil
}

// discover reads where the issuer publishes its keys.
func (r *remote) discover(ctx context.Context) (keysURL string, _ error) {
	body, _, err := r.fetch(ctx, r.url)
	if err != nil {
		return "", err
	}
	keysURL, err = parseDiscovery(body, r.issuer)
	if err != nil {
		return "", fmt.Errorf("GET %s: %w", r.url, err)
	}
	return keysURL, nil
}

// parseDiscovery reads an OpenID configuration (OpenID Connect Discovery 1.0 section 3). It must name the very issuer it was asked
// of (section 4.3), or one issuer could speak for another. The keys may be on another host, as Google's are, but not
// reached with less protection.
func parseDiscovery(body []byte, issuer string) (keysURL string, _ error) {
	doc, err := decodeObject(body)
	if err != nil {
		return "", fmt.Errorf("the document is not an OpenID configuration: %w", err)
	}
	if doc["issuer"] != issuer {
		named, _ := doc["issuer"].(string)
		return "", fmt.Errorf("the document is of the issuer %q, not %q; the two must be equal to the letter", shortened(named), shortened(issuer))
	}
	keysURL, _ = doc["jwks_uri"].(string)
	if len(keysURL) > maxURLBytes {
		return "", fmt.Errorf("its jwks_uri is longer than %d bytes", maxURLBytes)
	}
	u, err := keyURL(keysURL)
	if err != nil {
		return "", fmt.Errorf("its jwks_uri is no good: %w", err)
	}
	if u.Scheme == "http" && strings.HasPrefix(strings.ToLower(issuer), "https:") {
		return "", errors.New("its jwks_uri is http where the issuer is https, so anybody on the way could hand out keys")
	}
	return keysURL, nil
}

// maxURLBytes is the longest URL of the API types.
const maxURLBytes = 2048
