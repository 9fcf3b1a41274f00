package intercomwebhook

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"regexp"
	"sync"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
)

// hashOf returns the hash of a module's config. It must be called before the modules in the
// config are loaded, because Caddy clears their raw JSON then.
func hashOf(module caddy.Module) [sha256.Size]byte {
	config, err := json.Marshal(module)
	if err != nil {
		return [sha256.Size]byte{} // Caddy refuses JSON that is not valid
	}
	return sha256.Sum256(append(renumberGroups(config), module.CaddyModule().ID...))
}

// generatedGroup is the group of routes that exclude each other, such as those of handle
// directives, as the Caddyfile adapter writes it. In a string of JSON, quotes have a
// backslash before them, so it does not occur there.
var generatedGroup = regexp.MustCompile(`"group":"group\d+"`)

// renumberGroups numbers the generated groups from 0. The Caddyfile adapter counts them over
// all sites, so the numbers of one handler depend on what is before it in the file.
func renumberGroups(config []byte) []byte {
	numbers := make(map[string]int)
	return generatedGroup.ReplaceAllFunc(config, func(group []byte) []byte {
		number, known := numbers[string(group)]
		if !known {
			number = len(numbers)
			numbers[string(group)] = number
		}
		return fmt.Appendf(nil, `"group":"group%d"`, number)
	})
}

// places has where modules are in a Caddyfile that this process has adapted, by the hash of
// their config, so that warnings of Provision can say it. JSON configs have no such place, and
// neither has what `caddy reload` adapts in a process of its own.
var places sync.Map

// rememberPlace notes the place of a module.
func rememberPlace(module caddy.Module, file string, line int) {
	places.Store(hashOf(module), fmt.Sprintf("%s:%d", file, line))
}

// withPlace returns a logger whose lines have the place of the module with this hash, if it
// is known. A named route has one place for several handlers.
func withPlace(logger *zap.Logger, hash [sha256.Size]byte) *zap.Logger {
	if place, known := places.Load(hash); known {
		return logger.With(zap.Any("at", place))
	}
	return logger
}
