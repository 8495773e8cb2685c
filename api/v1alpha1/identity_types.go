package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Consumer is who calls: an application or a team, of one tenant.
//
// +kubebuilder:object:root=true
// +kubebuilder:storageversion
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,categories=weir
// +kubebuilder:printcolumn:name="Tenant",type=string,JSONPath=`.spec.tenant`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Programmed",type=string,JSONPath=`.status.conditions[?(@.type=="Programmed")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Consumer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ConsumerSpec `json:"spec"`
	Status Status       `json:"status,omitempty"`
}

// ConsumerList is a list of Consumer.
//
// +kubebuilder:object:root=true
type ConsumerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Consumer `json:"items"`
}

// ConsumerSpec describes who calls.
type ConsumerSpec struct {
	// Tenant the consumer belongs to. Empty: the consumer's namespace.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`
	Tenant string `json:"tenant,omitempty"`
	// Labels that routes match on.
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	Labels map[string]string `json:"labels,omitempty"`
	// AllowedModels the consumer may ask for; "*" stands for any run of characters. Empty: any model.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	AllowedModels []ModelName `json:"allowedModels,omitempty"`
	// Scopes that every credential of the consumer has.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=256
	// +kubebuilder:validation:items:MinLength=1
	Scopes []string `json:"scopes,omitempty"`
}

// APIKey lets a consumer in by a key.
//
// +kubebuilder:object:root=true
// +kubebuilder:storageversion
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,categories=weir
// +kubebuilder:printcolumn:name="Consumer",type=string,JSONPath=`.spec.consumer`
// +kubebuilder:printcolumn:name="Expires",type=string,JSONPath=`.spec.expiresAt`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Programmed",type=string,JSONPath=`.status.conditions[?(@.type=="Programmed")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type APIKey struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   APIKeySpec `json:"spec"`
	Status Status     `json:"status,omitempty"`
}

// APIKeyList is a list of APIKey.
//
// +kubebuilder:object:root=true
type APIKeyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []APIKey `json:"items"`
}

// APIKeySpec describes one key.
//
// +kubebuilder:validation:XValidation:rule="has(self.hash) != has(self.secretRef)",message="give exactly one of hash, secretRef"
type APIKeySpec struct {
	// Consumer that the key belongs to.
	Consumer ObjectName `json:"consumer"`
	// Hash of the key: "sha256:" and 64 hexadecimal digits, as `weir keys hash` prints it, or "hmac-sha256:" and as many,
	// made with the gateway's pepper. Keys are long random strings, so a fast hash is enough; a key of less than
	// 16 characters is refused there.
	// +optional
	// +kubebuilder:validation:Pattern=`^(hmac-)?sha256:[0-9a-f]{64}$`
	Hash string `json:"hash,omitempty"`
	// Prefix is the beginning of the key, for people to tell keys apart. It lets nobody in.
	// +optional
	// +kubebuilder:validation:MaxLength=16
	Prefix string `json:"prefix,omitempty"`
	// SecretRef holds the key itself; Weir keeps only its hash.
	// +optional
	SecretRef *SecretRef `json:"secretRef,omitempty"`
	// ExpiresAt ends the key: a time as RFC 3339 writes it, 2027-01-31T12:00:00Z.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`
	// Disabled refuses the key and keeps the object.
	// +optional
	Disabled bool `json:"disabled,omitempty"`
	// AllowedModels narrows what the consumer may ask for. Empty: no narrower.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	AllowedModels []ModelName `json:"allowedModels,omitempty"`
	// AllowedCIDRs are the addresses that the key may be used from. Empty: any. Behind proxies see
	// LLMGateway.spec.authentication.trustedHops.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=64
	// +kubebuilder:validation:items:XValidation:rule="isCIDR(self)",message="write a network such as 10.1.0.0/16 or 2001:db8::/32; one address is 10.1.0.5/32"
	AllowedCIDRs []string `json:"allowedCIDRs,omitempty"`
	// RequestsPerMinute that the key may make. Empty: no limit of its own.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000000
	RequestsPerMinute int64 `json:"requestsPerMinute,omitempty"`
	// Scopes of the key, beside the consumer's.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=256
	// +kubebuilder:validation:items:MinLength=1
	Scopes []string `json:"scopes,omitempty"`
}

// JWTIssuer lets consumers in by tokens that an identity provider signs.
//
// +kubebuilder:object:root=true
// +kubebuilder:storageversion
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,categories=weir
// +kubebuilder:printcolumn:name="Issuer",type=string,JSONPath=`.spec.issuer`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Programmed",type=string,JSONPath=`.status.conditions[?(@.type=="Programmed")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type JWTIssuer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   JWTIssuerSpec `json:"spec"`
	Status Status        `json:"status,omitempty"`
}

// JWTIssuerList is a list of JWTIssuer.
//
// +kubebuilder:object:root=true
type JWTIssuerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []JWTIssuer `json:"items"`
}

// JWTIssuerSpec describes an identity provider.
//
// +kubebuilder:validation:XValidation:rule="self.algorithms.exists(a, a.startsWith('HS')) == has(self.keys.secretRef)",message="HS256, HS384 and HS512 need keys.secretRef, and keys.secretRef needs one of them"
// +kubebuilder:validation:XValidation:rule="self.algorithms.all(a, a.startsWith('HS')) || self.algorithms.all(a, !a.startsWith('HS'))",message="algorithms must be all symmetric (HS...) or all asymmetric"
type JWTIssuerSpec struct {
	// Issuer is the exact value of the iss claim.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	Issuer string `json:"issuer"`
	// Audiences, one of which the aud claim must contain.
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=2048
	Audiences []string `json:"audiences"`
	// Algorithms that are accepted; any other is refused before a key is looked up.
	// +optional
	// +listType=set
	// +kubebuilder:default={"RS256","ES256","EdDSA"}
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=10
	// +kubebuilder:validation:items:Enum=HS256;HS384;HS512;RS256;RS384;RS512;ES256;ES384;ES512;PS256;PS384;PS512;EdDSA
	Algorithms []string `json:"algorithms,omitempty"`
	// Keys that sign the tokens.
	Keys JWTKeys `json:"keys"`
	// RequiredScopes that the scope (or scp) claim must all contain; else 403.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=256
	// +kubebuilder:validation:items:MinLength=1
	RequiredScopes []string `json:"requiredScopes,omitempty"`
	// Claims that say who the caller is.
	// +optional
	// +kubebuilder:default={}
	Claims JWTClaims `json:"claims,omitempty"`
	// Leeway for clocks that differ, in exp and nbf.
	// +optional
	// +kubebuilder:default="30s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	Leeway *Duration `json:"leeway,omitempty"`
}

// JWTKeys says where the signing keys are.
//
// +kubebuilder:validation:XValidation:rule="[has(self.url), has(self.file), has(self.secretRef), has(self.discovery) && self.discovery].filter(x, x).size() == 1",message="give exactly one of url, file, secretRef, discovery"
type JWTKeys struct {
	// URL of a JWKS document. Fetched in the background and refreshed; never on a request's path.
	// +optional
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() in ['http', 'https']",message="url must be an absolute http or https URL"
	URL string `json:"url,omitempty"`
	// Discovery finds the URL of the key set in the issuer's OpenID configuration: the issuer followed
	// by /.well-known/openid-configuration.
	// +optional
	Discovery bool `json:"discovery,omitempty"`
	// KeepFor is how long keys stay good that were fetched and cannot be fetched again.
	// +optional
	// +kubebuilder:default="24h"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1m') && duration(self) <= duration('8760h')",message="keepFor must be from 1m to 8760h"
	KeepFor *Duration `json:"keepFor,omitempty"`
	// File with a JWKS document. A relative path starts at the folder of the document.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	File string `json:"file,omitempty"`
	// SecretRef holds the shared secret of HS256, HS384 or HS512, at least 32 bytes.
	// +optional
	SecretRef *SecretRef `json:"secretRef,omitempty"`
}

// JWTClaims names the claims that say who the caller is. A dotted path reaches into objects.
type JWTClaims struct {
	// Consumer claim: the name of a Consumer, or any name where no such object exists.
	// +optional
	// +kubebuilder:default=sub
	// +kubebuilder:validation:MaxLength=256
	Consumer string `json:"consumer,omitempty"`
	// Tenant claim. Empty, or the claim absent: the Consumer's tenant, else the issuer's namespace.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Tenant string `json:"tenant,omitempty"`
	// AllowedModels claim: a list of names or patterns that narrows what the caller may ask for.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	AllowedModels string `json:"allowedModels,omitempty"`
	// Scopes claim: a list, or a text with spaces between. Empty: scope, or else scp.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Scopes string `json:"scopes,omitempty"`
	// Labels from claims: label name to claim.
	// +optional
	// +kubebuilder:validation:MaxProperties=16
	Labels map[string]string `json:"labels,omitempty"`
}
