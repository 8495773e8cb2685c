package identity

import (
	"maps"
	"slices"
	"strings"

	"github.com/golang-jwt/jwt/v5"

	"github.com/weir-dev/weir/adapters/canon"
)

const (
	// maxNameBytes bounds a consumer or label from a token; OpenID Connect limits sub to 255.
	maxNameBytes = 256
	// maxTokenModels is the limit the API types set for allow-lists.
	maxTokenModels = 256
)

// identify makes the identity that a verified token stands for.
func (a *Authenticator) identify(i *issuer, claims jwt.MapClaims) (*Identity, *canon.Error) {
	scopes, bad := tokenScopes(claims, i.claims.Scopes)
	if bad != nil {
		return nil, bad
	}
	for _, s := range i.required {
		if !slices.Contains(scopes, s) {
			return nil, InsufficientScope(s, i.required)
		}
	}
	name, ok, bad := textClaim(claims, i.claims.Consumer)
	if bad != nil {
		return nil, bad
	}
	if !ok {
		return nil, badToken("it lacks the claim " + i.claims.Consumer + ", which names the caller")
	}
	id := &Identity{
		Consumer: name, Namespace: i.namespace, Tenant: i.namespace, Credential: i.credential,
		ConsumerID: i.namespace + "/" + name, CredentialID: i.credentialID,
	}
	if c := a.consumers[objectID{i.namespace, name}]; c != nil {
		id.Tenant, id.Labels, id.Models = c.Tenant, c.Labels, c.models
		id.Scopes = sortedSet(c.Scopes, scopes)
	} else {
		id.Scopes = sortedSet(scopes)
	}
	if bad := i.claims.apply(id, claims); bad != nil {
		return nil, bad
	}
	return id, nil
}

// apply adds what the optional claims say.
func (m *ClaimMap) apply(id *Identity, claims jwt.MapClaims) *canon.Error {
	if m.Tenant != "" {
		tenant, ok, bad := textClaim(claims, m.Tenant)
		switch {
		case bad != nil:
			return bad
		case ok && !validTenant(tenant):
			return badToken("its claim " + m.Tenant + " is no tenant: " + tenantRule)
		case ok:
			id.Tenant = tenant
		}
	}
	copied := false
	for label, path := range m.Labels {
		value, ok, bad := textClaim(claims, path)
		if bad != nil {
			return bad
		}
		if !ok {
			continue
		}
		if !copied { // the Consumer's labels are shared
			id.Labels, copied = maps.Clone(id.Labels), true
			if id.Labels == nil {
				id.Labels = make(map[string]string, len(m.Labels))
			}
		}
		id.Labels[label] = value
	}
	if m.AllowedModels != "" {
		if v, ok := claimAt(claims, m.AllowedModels); ok {
			list, ok := stringList(v)
			if !ok || len(list) > maxTokenModels {
				return badToken("its claim " + m.AllowedModels + " is not a list of model names")
			}
			p, err := NewPatterns(list)
			if err != nil {
				return badToken("its claim " + m.AllowedModels + " is not a list of model names")
			}
			id.Models = append(slices.Clone(id.Models), p)
		}
	}
	return nil
}

// tokenScopes reads the claim that the issuer's configuration names. Without one it reads scope (RFC 8693 section 4.2: one
// string with spaces), or where that is absent scp, which Okta writes as a list and Microsoft Entra as a string.
func tokenScopes(claims jwt.MapClaims, path string) ([]string, *canon.Error) {
	if path != "" {
		v, ok := claimAt(claims, path)
		if !ok {
			return nil, nil
		}
		return scopeList(path, v)
	}
	if v, ok := claims["scope"]; ok {
		s, ok := v.(string)
		if !ok {
			return nil, badToken("its claim scope is not a string")
		}
		return strings.Fields(s), nil
	}
	if v, ok := claims["scp"]; ok {
		return scopeList("scp", v)
	}
	return nil, nil
}

func scopeList(path string, v any) ([]string, *canon.Error) {
	if s, ok := v.(string); ok {
		return strings.Fields(s), nil
	}
	list, ok := stringList(v)
	if !ok {
		return nil, badToken("its claim " + path + " is not a string or list of strings")
	}
	return list, nil
}

// textClaim reads a claim that becomes part of an identity. ok is false where it is absent; any type but a
// string of printable characters is an error, null included.
func textClaim(claims jwt.MapClaims, path string) (text string, ok bool, _ *canon.Error) {
	v, ok := claimAt(claims, path)
	if !ok {
		return "", false, nil
	}
	s, isString := v.(string)
	if !isString || s == "" || len(s) > maxNameBytes || !printable(s) {
		return "", false, badToken("its claim " + path + " is not a short string of printable characters")
	}
	return s, true, nil
}

// claimAt finds a claim. The very name wins, because names may hold dots ("https://example.com/tenant"); else each
// dot may be a step into an object.
func claimAt(m map[string]any, path string) (any, bool) {
	if v, ok := m[path]; ok {
		return v, true
	}
	for i := range len(path) {
		if path[i] != '.' {
			continue
		}
		if inner, ok := m[path[:i]].(map[string]any); ok {
			if v, ok := claimAt(inner, path[i+1:]); ok {
				return v, true
			}
		}
	}
	return nil, false
}

func stringList(v any) ([]string, bool) {
	list, ok := v.([]any)
	if !ok {
		return nil, false
	}
	out := make([]string, 0, len(list))
	for _, e := range list {
		s, ok := e.(string)
		if !ok {
			return nil, false
		}
		out = append(out, s)
	}
	return out, true
}
