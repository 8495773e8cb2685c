// Package deploy holds tests of what is in the folder deploy: the Helm chart, kustomizations, policies and Argo CD's health checks, rendered by the
// tools' own packages and applied to a real Kubernetes API server.
package deploy
