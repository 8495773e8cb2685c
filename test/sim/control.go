package sim

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
)

// controlHandler serves /_sim/: what arrived, how to behave, what was counted.
func (s *Server) controlHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /_sim/requests", s.listRequests)
	mux.HandleFunc("DELETE /_sim/requests", func(w http.ResponseWriter, _ *http.Request) {
		s.Reset()
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /_sim/requests/{id}", func(w http.ResponseWriter, r *http.Request) {
		if rec, ok := s.oneRequest(w, r); ok {
			reply(w, http.StatusOK, rec)
		}
	})
	mux.HandleFunc("GET /_sim/requests/{id}/body", func(w http.ResponseWriter, r *http.Request) {
		if rec, ok := s.oneRequest(w, r); ok {
			w.Header().Set("Content-Type", "application/octet-stream")
			_, _ = w.Write([]byte(rec.Body)) // the reader may have left; there is nobody to tell
		}
	})
	mux.HandleFunc("GET /_sim/faults", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, s.Faults()) })
	mux.HandleFunc("PUT /_sim/faults", s.putFaults)
	mux.HandleFunc("GET /_sim/stats", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, s.Stats()) })
	return mux
}

// listRequests returns the newest records, oldest first. Query: limit (default 100), body=all for
// bodies above 64 KiB, credential=FINGERPRINT for those that carried it.
func (s *Server) listRequests(w http.ResponseWriter, r *http.Request) {
	limit := 100
	if v := r.URL.Query().Get("limit"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			refuse(w, http.StatusBadRequest, fmt.Errorf("limit is %q: give a number from 1 to %d", v, maxRecords))
			return
		}
		limit = n
	}
	want := r.URL.Query().Get("credential")
	all := s.Requests()
	out := make([]Record, 0, min(limit, len(all)))
	for i := len(all) - 1; i >= 0 && len(out) < limit; i-- {
		rec := all[i]
		if want != "" && !carries(rec, want) {
			continue
		}
		if r.URL.Query().Get("body") != "all" && len(rec.Body) > smallBody {
			rec.Body = ""
		}
		out = append(out, rec)
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	reply(w, http.StatusOK, out)
}

func carries(r Record, fingerprint string) bool {
	for _, c := range r.Credentials {
		if c == fingerprint {
			return true
		}
	}
	return false
}

func (s *Server) oneRequest(w http.ResponseWriter, r *http.Request) (Record, bool) {
	id, err := strconv.ParseUint(r.PathValue("id"), 10, 64)
	if err == nil {
		if rec, ok := s.journal.get(id); ok {
			return rec, true
		}
	}
	refuse(w, http.StatusNotFound, fmt.Errorf("there is no record of request %q: GET /_sim/requests lists those that are kept", r.PathValue("id")))
	return Record{}, false
}

// maxFaultsBody bounds a PUT to /_sim/faults, in bytes.
const maxFaultsBody = 1 << 20

func (s *Server) putFaults(w http.ResponseWriter, r *http.Request) {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxFaultsBody))
	d.DisallowUnknownFields()
	var f Faults
	if err := d.Decode(&f); err != nil {
		refuse(w, http.StatusBadRequest, fmt.Errorf("the faults cannot be read: %w", err))
		return
	}
	if err := s.SetFaults(f); err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	reply(w, http.StatusOK, s.Faults())
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v) // the reader may have left; there is nobody to tell
}

func refuse(w http.ResponseWriter, status int, err error) {
	reply(w, status, map[string]string{"error": err.Error()})
}
