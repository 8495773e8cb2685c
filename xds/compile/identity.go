package compile

import (
	"errors"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/xds/source"
)

// identity builds the authenticator from Consumers, APIKeys and JWTIssuers.
func (c *compiler) identity() {
	cfg := identity.Config{Shared: c.opts.Identity, MaxFailedLogins: c.out.MaxFailedLogins, Pepper: c.pepper()}
	if !c.out.StoredKeys {
		cfg.Stored = nil
	}
	for _, o := range c.objs.Consumers {
		cfg.Consumers = append(cfg.Consumers, identity.Consumer{
			Namespace: o.Namespace, Name: o.Name, Tenant: o.Spec.Tenant, Labels: o.Spec.Labels,
			AllowedModels: names(o.Spec.AllowedModels), Scopes: o.Spec.Scopes,
		})
	}
	for _, o := range c.objs.APIKeys {
		ref := source.ObjectRef{Kind: "APIKey", Namespace: o.Namespace, Name: o.Name}
		if !c.known[source.ObjectRef{Kind: "Consumer", Namespace: o.Namespace, Name: string(o.Spec.Consumer)}] {
			c.errorf(ref, "spec.consumer", "there is no Consumer %s/%s", o.Namespace, o.Spec.Consumer)
			continue
		}
		hash := o.Spec.Hash
		if o.Spec.SecretRef != nil {
			secret, ok := c.objs.Secrets[source.SecretKeyOf(o.Namespace, *o.Spec.SecretRef)]
			if !ok {
				c.errorf(ref, "spec.secretRef", "the key cannot be read")
				continue
			}
			hash = identity.HashKey(secret.Reveal())
			c.weakKeys[o.Namespace+"/"+o.Name] = identity.ValidateKey(secret.Reveal()) != nil
		}
		kind, sum, err := identity.ParseHash(hash)
		if err != nil {
			c.errorf(ref, "spec.hash", "%v", err)
			continue
		}
		k := identity.Key{
			Namespace: o.Namespace, Name: o.Name, Consumer: string(o.Spec.Consumer),
			Hash: sum, Kind: kind, Prefix: o.Spec.Prefix, Disabled: o.Spec.Disabled,
			AllowedModels: names(o.Spec.AllowedModels), AllowedCIDRs: o.Spec.AllowedCIDRs, Scopes: o.Spec.Scopes,
			RequestsPerMinute: o.Spec.RequestsPerMinute,
		}
		if o.Spec.ExpiresAt != nil {
			k.ExpiresAt = o.Spec.ExpiresAt.Time
		}
		cfg.Keys = append(cfg.Keys, k)
	}
	for _, o := range c.objs.JWTIssuers {
		if i, ok := c.issuer(o); ok {
			cfg.Issuers = append(cfg.Issuers, i)
		}
	}
	c.callers = cfg
	auth, errs := identity.New(cfg, c.opts.Keys)
	for _, err := range errs {
		var ce *identity.ConfigError
		if !errors.As(err, &ce) {
			c.errorf(source.ObjectRef{}, "", "%v", err)
			continue
		}
		field := ""
		if ce.Field != "" {
			field = "spec." + ce.Field
		}
		c.errorf(source.ObjectRef{Kind: ce.Kind, Namespace: ce.Namespace, Name: ce.Name}, field, "%s", ce.Reason)
	}
	if len(cfg.Keys) == 0 && len(cfg.Issuers) == 0 && !c.out.StoredKeys {
		c.warnf(source.ObjectRef{}, "", "there is no APIKey and no JWTIssuer: every request will be refused with 401")
	}
	c.out.Table.Auth = auth
}

// pepper is the first gateway's, nil where it has none. Keys are not tied to a gateway, so all gateways must agree.
func (c *compiler) pepper() *identity.Pepper {
	var value string
	var out *identity.Pepper
	for i, g := range c.objs.Gateways {
		const field = "spec.authentication.keyPepperRef"
		at := source.ObjectRef{Kind: "LLMGateway", Namespace: g.Namespace, Name: g.Name}
		own := ""
		if ref := g.Spec.Authentication.KeyPepperRef; ref != nil {
			secret, ok := c.objs.Secrets[source.SecretKeyOf(g.Namespace, *ref)]
			if !ok {
				c.errorf(at, field, "the pepper cannot be read")
				continue
			}
			own = secret.Reveal()
			p, err := identity.NewPepper([]byte(own))
			if err != nil {
				c.errorf(at, field, "%v", err)
				continue
			}
			if i == 0 {
				value, out = own, p
			}
		}
		if i > 0 && own != value {
			c.errorf(at, field, "the pepper is not that of LLMGateway %s/%s, and keys are valid at every gateway: give both the same",
				c.objs.Gateways[0].Namespace, c.objs.Gateways[0].Name)
		}
	}
	return out
}

func (c *compiler) issuer(o *v1alpha1.JWTIssuer) (identity.Issuer, bool) {
	ref := source.ObjectRef{Kind: "JWTIssuer", Namespace: o.Namespace, Name: o.Name}
	i := identity.Issuer{
		Namespace: o.Namespace, Name: o.Name, Issuer: o.Spec.Issuer, Audiences: o.Spec.Audiences,
		Algorithms: o.Spec.Algorithms, RequiredScopes: o.Spec.RequiredScopes,
		Claims: identity.ClaimMap{
			Consumer: o.Spec.Claims.Consumer, Tenant: o.Spec.Claims.Tenant,
			AllowedModels: o.Spec.Claims.AllowedModels, Scopes: o.Spec.Claims.Scopes, Labels: o.Spec.Claims.Labels,
		},
		Leeway: duration(o.Spec.Leeway),
	}
	keys := o.Spec.Keys
	i.Keys.KeepFor = duration(keys.KeepFor)
	switch {
	case keys.Discovery:
		i.Keys.Discovery = true
	case keys.URL != "":
		i.Keys.URL = keys.URL
	case keys.File != "":
		doc, ok := c.objs.Secrets[source.FileKeyOf(keys.File)]
		if !ok {
			c.errorf(ref, "spec.keys.file", "the key set cannot be read")
			return i, false
		}
		i.Keys.JWKS = []byte(doc.Reveal())
	case keys.SecretRef != nil:
		secret, ok := c.objs.Secrets[source.SecretKeyOf(o.Namespace, *keys.SecretRef)]
		if !ok {
			c.errorf(ref, "spec.keys.secretRef", "the secret cannot be read")
			return i, false
		}
		i.Keys.Secret = []byte(secret.Reveal())
	}
	return i, true
}

func names(list []v1alpha1.ModelName) []string {
	out := make([]string, len(list))
	for i, n := range list {
		out[i] = string(n)
	}
	return out
}
