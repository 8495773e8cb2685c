package v1alpha1

// SharedState is where replicas of a gateway count together.
type SharedState struct {
	// Redis holds counters, leases and keys.
	Redis Redis `json:"redis"`
}

// Redis is how a Redis server, a replicated one behind Sentinel, or a cluster is reached.
//
// +kubebuilder:validation:XValidation:rule="(self.mode == 'Sentinel') == has(self.masterName)",message="masterName belongs to the mode Sentinel, which needs it"
// +kubebuilder:validation:XValidation:rule="self.mode != 'Standalone' || size(self.addresses) == 1",message="the mode Standalone has one address"
// +kubebuilder:validation:XValidation:rule="self.mode != 'Cluster' || self.database == 0",message="a cluster has no database but 0"
// +kubebuilder:validation:XValidation:rule="!has(self.sentinelPasswordRef) || self.mode == 'Sentinel'",message="sentinelPasswordRef belongs to the mode Sentinel"
type Redis struct {
	// Mode: one server, servers watched by Sentinel, or a cluster.
	// +optional
	// +kubebuilder:default=Standalone
	// +kubebuilder:validation:Enum=Standalone;Sentinel;Cluster
	Mode RedisMode `json:"mode,omitempty"`
	// Addresses as host:port: of the server, of the sentinels, or of some nodes of the cluster.
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=261
	// +kubebuilder:validation:items:Pattern=`^(\[[0-9A-Fa-f:.]+\]|[^\s/:\[\]@]+):[0-9]{1,5}$`
	Addresses []string `json:"addresses"`
	// MasterName is what the sentinels call the master.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	MasterName string `json:"masterName,omitempty"`
	// Database number.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1023
	Database int32 `json:"database,omitempty"`
	// Username of an ACL user.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Username string `json:"username,omitempty"`
	// PasswordRef holds the password.
	// +optional
	PasswordRef *SecretRef `json:"passwordRef,omitempty"`
	// SentinelPasswordRef holds the password of the sentinels.
	// +optional
	SentinelPasswordRef *SecretRef `json:"sentinelPasswordRef,omitempty"`
	// TLS towards Redis. Plain text without it.
	// +optional
	TLS *RedisTLS `json:"tls,omitempty"`
	// KeyPrefix stands before every key. Gateways that must not share anything have different ones.
	// +optional
	// +kubebuilder:default="weir"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_.:-]+$`
	KeyPrefix string `json:"keyPrefix,omitempty"`
	// Timeout of one command. A request that has to ask waits no longer; then onFailure of its policy applies.
	// +optional
	// +kubebuilder:default="100ms"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1ms') && duration(self) <= duration('2s')",message="timeout must be from 1ms to 2s"
	Timeout *Duration `json:"timeout,omitempty"`
}

// RedisMode is how Redis is set up.
type RedisMode string

// The modes.
const (
	RedisStandalone RedisMode = "Standalone"
	RedisSentinel   RedisMode = "Sentinel"
	RedisCluster    RedisMode = "Cluster"
)

// RedisTLS is how Redis is trusted.
//
// +kubebuilder:validation:XValidation:rule="has(self.certificateRef) == has(self.privateKeyRef)",message="certificateRef and privateKeyRef belong together"
type RedisTLS struct {
	// ServerName to verify. Empty: the host of the address.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	ServerName string `json:"serverName,omitempty"`
	// CARef holds the certificate authorities to trust, PEM. Empty: the system's.
	// +optional
	CARef *SecretRef `json:"caRef,omitempty"`
	// CertificateRef is the client's certificate, PEM.
	// +optional
	CertificateRef *SecretRef `json:"certificateRef,omitempty"`
	// PrivateKeyRef is the client's private key, PEM.
	// +optional
	PrivateKeyRef *SecretRef `json:"privateKeyRef,omitempty"`
}

// Accounting says how usage is counted and kept.
type Accounting struct {
	// Currency that every price, budget and cost limit is in. It is only a name; nothing is converted.
	// +optional
	// +kubebuilder:default=USD
	// +kubebuilder:validation:Pattern=`^[A-Z]{3}$`
	Currency string `json:"currency,omitempty"`
	// StreamUsage Request asks OpenAI-compatible backends to report the usage of a stream when the caller did not, and
	// hides the report from the caller. AsIs: such streams are counted by an estimate.
	// +optional
	// +kubebuilder:default=Request
	// +kubebuilder:validation:Enum=Request;AsIs
	StreamUsage StreamUsage `json:"streamUsage,omitempty"`
	// RetentionDays is how long ledger entries are kept.
	// +optional
	// +kubebuilder:default=400
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=36500
	RetentionDays int32 `json:"retentionDays,omitempty"`
	// Ledger Local keeps entries in the state folder of each replica. Redis also sends them to a stream of the
	// shared state.
	// +optional
	// +kubebuilder:default=Local
	// +kubebuilder:validation:Enum=Local;Redis
	Ledger LedgerKind `json:"ledger,omitempty"`
}

// StreamUsage says whether usage of streams is asked for.
type StreamUsage string

// The ways.
const (
	StreamUsageRequest StreamUsage = "Request"
	StreamUsageAsIs    StreamUsage = "AsIs"
)

// LedgerKind is where entries are kept.
type LedgerKind string

// The kinds of ledger.
const (
	LedgerLocal LedgerKind = "Local"
	LedgerRedis LedgerKind = "Redis"
)

// Authentication says how callers are told apart.
type Authentication struct {
	// KeyPepperRef holds a secret of at least 32 bytes that key hashes of the kind hmac-sha256 are made with: who steals
	// the hashes alone cannot even test a guess.
	// +optional
	KeyPepperRef *SecretRef `json:"keyPepperRef,omitempty"`
	// KeyStore Redis takes keys from the shared state too, where `weir keys` makes and revokes them. Objects: only
	// APIKey objects let callers in.
	// +optional
	// +kubebuilder:default=Objects
	// +kubebuilder:validation:Enum=Objects;Redis
	KeyStore KeyStore `json:"keyStore,omitempty"`
	// MaxFailedLogins per minute from one address; more get 429 until a minute has passed. Credentials that are
	// known good still pass. 0: no limit.
	// +optional
	// +kubebuilder:default=60
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000000
	MaxFailedLogins *int32 `json:"maxFailedLogins,omitempty"`
	// TrustedHops is the number of proxies in front that add the address they saw to x-forwarded-for.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=16
	TrustedHops int32 `json:"trustedHops,omitempty"`
	// External serves Envoy's external authorization protocol (ext_authz, gRPC), so that other gateways let the same
	// callers in.
	// +optional
	External *ExternalAuthorization `json:"external,omitempty"`
}

// KeyStore is where API keys are.
type KeyStore string

// The key stores.
const (
	KeysObjects KeyStore = "Objects"
	KeysRedis   KeyStore = "Redis"
)

// ExternalAuthorization is where ext_authz is served.
type ExternalAuthorization struct {
	// Address to listen on.
	// +optional
	// +kubebuilder:default="127.0.0.1"
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="isIP(self)",message="address must be an IP address"
	Address string `json:"address,omitempty"`
	// Port to listen on.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`
	// TLS of the server. Plain text without it.
	// +optional
	TLS *ListenerTLS `json:"tls,omitempty"`
	// ClientCARef holds the authorities whose client certificates are let in, PEM. Needs tls.
	// +optional
	ClientCARef *SecretRef `json:"clientCARef,omitempty"`
}
