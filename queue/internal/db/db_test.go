package db

import (
	"errors"
	"fmt"
	"testing"
)

func TestDeliveryIDsAreARangeOfTheirNotification(t *testing.T) {
	seen := make(map[int64]bool)
	for _, notification := range []int64{1, 2, 3, 1 << 40} {
		for place := range MaxDeliveries {
			id := DeliveryID(notification, place)
			if NotificationOf(id) != notification || seen[id] || id != DeliveryID(notification, 0)+int64(place) {
				t.Errorf("delivery %d of notification %d has the id %d, which is of %d", place, notification, id, NotificationOf(id))
			}
			seen[id] = true
		}
	}
}

func TestPermanentErrorsAreKnownWhereverTheyAre(t *testing.T) {
	permanent := &PermanentError{Err: ErrLocked}
	for _, err := range []error{permanent, fmt.Errorf("opening: %w", permanent), errors.Join(errors.New("other"), permanent)} {
		if !IsPermanent(err) || !errors.Is(err, ErrLocked) {
			t.Errorf("%v is permanent: %t", err, IsPermanent(err))
		}
	}
	for _, err := range []error{nil, ErrLocked, errors.New("other")} {
		if IsPermanent(err) {
			t.Errorf("%v is permanent", err)
		}
	}
}
