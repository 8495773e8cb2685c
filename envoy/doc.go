// Package envoy owns the Envoy binary: it finds or fetches it, checks its version, writes its
// bootstrap, supervises it as a child process and drains it before it stops.
//
// The usual order of calls:
//
//	bin, err := envoy.Ensure(ctx, envoy.FindOptions{Progress: os.Stderr})
//	dir, err := envoy.NewRuntimeDir(envoy.RuntimeDirOptions{})
//	boot, err := envoy.Bootstrap(envoy.BootstrapOptions{AdminSocket: ..., XDSSocket: ...})
//	sup, err := envoy.NewSupervisor(envoy.SupervisorOptions{Binary: bin.Path, Bootstrap: boot, ...})
//	err = sup.Start(ctx)     // the process lives and its admin socket answers
//	err = sup.WaitReady(ctx) // it has its configuration and serves
//	err = sup.Stop(ctx)      // drain, then end
//
// Everything Envoy does with configuration after its bootstrap comes over delta ADS and is not
// this package's business.
package envoy
