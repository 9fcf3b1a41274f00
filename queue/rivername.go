package queue

import "strings"

// unroutedLane is the lane of notifications that fit no route when they arrive. Every instance
// works on it, whatever its routes are, so no route or copy may have it.
const unroutedLane = "unrouted"

// riverQueue returns the name of the River queue of a lane. For the endpoint with the
// default name, it is the name of the lane. For others, it is endpoint|lane; neither name
// can have a | in it.
func riverQueue(endpoint, lane string) string {
	if endpoint == defaultName {
		return lane
	}
	return endpoint + "|" + lane
}

// splitRiverQueue is the reverse of riverQueue.
func splitRiverQueue(queue string) (endpoint, lane string) {
	if endpoint, lane, ok := strings.Cut(queue, "|"); ok {
		return endpoint, lane
	}
	return defaultName, queue
}
