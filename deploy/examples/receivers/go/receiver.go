// Receive webhooks with Go's standard library.
//
//	WEBHOOK_SECRETS='whsec_new whsec_old' PORT=9000 go run receiver.go
//	go run receiver.go --verify schemas/vectors/cases.psv
package main

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	toleranceSeconds = 300
	shortestKey      = 24
	largestBody      = 1 << 20
)

var shapes = []struct {
	name  string
	shape *regexp.Regexp
}{
	{"Webhook-Id", regexp.MustCompile(`^[!-+/-~-]{1,256}$`)},
	{"Webhook-Timestamp", regexp.MustCompile(`^[0-9]{1,12}$`)},
	{"Webhook-Signature", regexp.MustCompile(`^[^ ,]+,[^ ,]+( [^ ,]+,[^ ,]+){0,9}$`)},
}

// keysFrom decodes the secrets of the environment; both while one is rotated, with a blank between.
func keysFrom(text string) ([][]byte, error) {
	var keys [][]byte
	for _, secret := range strings.Fields(text) {
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
		// An empty key, or half of one, would let anybody sign.
		if err != nil || len(key) < shortestKey {
			return nil, errors.New("a secret is no standard base64 of 24 bytes or more: copy it whole, from whsec_ on")
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("set WEBHOOK_SECRETS to the endpoint's secret")
	}
	return keys, nil
}

// verify returns the event's id. body holds the raw bytes of the request.
func verify(headers http.Header, body []byte, keys [][]byte, now time.Time) (string, error) {
	var found [3]string
	for i, one := range shapes {
		values := headers.Values(one.name)
		if len(values) != 1 || !one.shape.MatchString(values[0]) {
			return "", fmt.Errorf("%s is missing, repeated or malformed", strings.ToLower(one.name))
		}
		found[i] = values[0]
	}
	id, timestamp, offered := found[0], found[1], found[2]
	signedAt, err := strconv.ParseInt(timestamp, 10, 64)
	if age := now.Unix() - signedAt; err != nil || age > toleranceSeconds || -age > toleranceSeconds {
		return "", errors.New("the timestamp is more than five minutes away from now")
	}
	for _, key := range keys {
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "%s.%s.", id, timestamp)
		mac.Write(body)
		expected := []byte("v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)))
		for _, entry := range strings.Split(offered, " ") {
			if hmac.Equal([]byte(entry), expected) {
				return id, nil
			}
		}
	}
	return "", errors.New("no signature matches")
}

// receiver remembers the ids of finished events. Yours belong into a table with a unique key, shared by all your
// processes, for 30 days.
type receiver struct {
	keys  [][]byte
	mutex sync.Mutex
	seen  map[string]bool
	order []string
}

// work takes one event, once: put it into a queue and do the rest later, for the sender waits five seconds.
func (r *receiver) work(id, eventType string, _ []byte) error {
	fmt.Println("received", id, eventType)
	return nil
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	if request.Method != http.MethodPost {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, request.Body, largestBody))
	if err != nil {
		http.Error(w, "the body is too large, or was cut", http.StatusRequestEntityTooLarge)
		return
	}
	id, err := verify(request.Header, body, r.keys, time.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	// One at a time, so that two deliveries of one event cannot both be the first.
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if r.seen[id] {
		fmt.Println("duplicate", id)
	} else if err := r.work(id, request.Header.Get("X-Webhook-Event"), body); err != nil {
		// It is delivered again later.
		http.Error(w, "", http.StatusInternalServerError)
		return
	} else {
		r.remember(id)
	}
	w.WriteHeader(http.StatusNoContent)
}

func (r *receiver) remember(id string) {
	r.seen[id] = true
	r.order = append(r.order, id)
	if len(r.order) > 10_000 {
		delete(r.seen, r.order[0])
		r.order = r.order[1:]
	}
}

func check(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, largestBody)
	for lines.Scan() {
		field := strings.Split(lines.Text(), "|")
		now, _ := strconv.ParseInt(field[2], 10, 64)
		keys, err := keysFrom(field[3])
		if err != nil {
			return err
		}
		body, err := base64.StdEncoding.DecodeString(field[7])
		if err != nil {
			return err
		}
		headers := http.Header{"Webhook-Id": {field[4]}, "Webhook-Timestamp": {field[5]}, "Webhook-Signature": {field[6]}}
		verdict := "accept"
		if _, err := verify(headers, body, keys, time.Unix(now, 0)); err != nil {
			verdict = "refuse"
		}
		fmt.Println(verdict + "|" + field[1])
	}
	return lines.Err()
}

func serve() error {
	secrets := os.Getenv("WEBHOOK_SECRETS")
	if secrets == "" {
		secrets = os.Getenv("WEBHOOK_SECRET")
	}
	keys, err := keysFrom(secrets)
	if err != nil {
		return err
	}
	port := os.Getenv("PORT")
	if port == "" {
		port = "9000"
	}
	listener, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	fmt.Printf("receiving on http://%s/\n", listener.Addr())
	server := &http.Server{Handler: &receiver{keys: keys, seen: map[string]bool{}}, ReadTimeout: 10 * time.Second}
	return server.Serve(listener)
}

func main() {
	var err error
	if len(os.Args) == 3 && os.Args[1] == "--verify" {
		err = check(os.Args[2])
	} else {
		err = serve()
	}
	if err != nil {
		log.Fatal(err)
	}
}
