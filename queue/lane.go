package queue

import (
	"strings"
)

// unroutedLane has the notifications that fit no route when they come.
const unroutedLane = "unrouted"

// riverQueue returns the name of the River queue of a lane. Lanes of the endpoint
// with the default name are called as they are; the others have the endpoint in
// front, behind a character that is in neither name.
func riverQueue(endpoint, lane string) string {
	if endpoint == defaultName {
		return lane
	}
	return endpoint + "|" + lane
}

// splitRiverQueue undoes riverQueue.
func splitRiverQueue(queue string) (endpoint, lane string) {
	if endpoint, lane, ok := strings.Cut(queue, "|"); ok {
		return endpoint, lane
	}
	return defaultName, queue
}
