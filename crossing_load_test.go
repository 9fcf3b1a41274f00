//go:build load

package intercomwebhook

// crossings is how many requests TestNoSchemeIsAcceptedAsAnother makes.
const crossings = 10_000_000
