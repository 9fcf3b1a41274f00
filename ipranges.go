package intercomwebhook

// compiledInRanges are the addresses that Intercom sends from, as it published
// them (service INTERCOM-OUTBOUND) on 2026-06-29 at
// https://static.intercomcdn.com/intercom-ips/{us,eu,au}/intercom-ip-ranges.json.
var compiledInRanges = []string{
	// us
	"34.197.76.213/32",
	"34.231.68.152/32",
	"35.169.138.21/32",
	"35.171.78.91/32",
	"52.44.63.161/32",
	"52.70.27.159/32",
	// eu
	"54.216.9.3/32",
	"54.217.125.63/32",
	"54.246.173.113/32",
	// au
	"3.104.68.152/32",
	"52.63.36.185/32",
	"52.64.2.165/32",
}
