// Package harness runs a real gateway for tests: the weir binary as a child process with an Envoy of its own, a folder of
// objects that the test may change, and simulated providers in the test's process.
//
// A test starts what it needs and gets it stopped at its end:
//
//	up := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI})
//	g := harness.Start(t, harness.Options{
//		Backends:  []harness.Backend{{Name: "up", Sim: up}},
//		Documents: []string{harness.Route("all", "rules: [{backends: [{name: up}]}]")},
//	})
//	// requests to g.URL with g.Key
//
// Several tests share one gateway as subtests of the test that started it. A test package ends its run with Main, which
// removes the binary.
package harness
