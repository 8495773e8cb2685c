package main

import "os"

// trustStores are where systems keep the certificate authorities that they trust, all in one file.
var trustStores = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Ubuntu, Alpine, Arch
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Fedora, RHEL
	"/etc/pki/tls/certs/ca-bundle.crt",                  // older ones of these
	"/etc/ssl/ca-bundle.pem",                            // SUSE
	"/etc/ssl/cert.pem",                                 // macOS, OpenBSD
}

// systemCAs is the file with the system's certificate authorities: the one that SSL_CERT_FILE names, as for OpenSSL
// and Go, else the first that is there. "" where none is.
func systemCAs(env func(string) string, exists func(path string) bool) string {
	if path := env("SSL_CERT_FILE"); path != "" {
		return path
	}
	for _, path := range trustStores {
		if exists(path) {
			return path
		}
	}
	return ""
}

func fileExists(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
