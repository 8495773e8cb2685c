// Package kubetest gives tests a Kubernetes API server of their own: a real kube-apiserver on a real etcd, with Weir's
// CustomResourceDefinitions installed, in some three seconds and without containers. See README.md for what it is not.
package kubetest
