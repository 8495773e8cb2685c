package usage

import (
	"bytes"
	"errors"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// logs is a message with two records, the first of which has markers where a test puts other bytes of the same length.
func logs() *alsv3.StreamAccessLogsMessage {
	entry := func(id string) *datav3.HTTPAccessLogEntry {
		return &datav3.HTTPAccessLogEntry{
			CommonProperties: &datav3.AccessLogCommon{
				Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
					"weir": {Fields: map[string]*structpb.Value{"model": structpb.NewStringValue(id)}},
				}},
				CustomTags: map[string]string{"tag": id},
			},
			Request: &datav3.HTTPRequestProperties{RequestId: id, UserAgent: "ua"},
		}
	}
	return &alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_HttpLogs{HttpLogs: &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{
		LogEntry: []*datav3.HTTPAccessLogEntry{entry("MARK!"), entry("é-2")},
	}}}
}

func unmarshal(raw []byte, into proto.Message) error {
	return Codec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(raw)}, into)
}

func TestCodec(t *testing.T) {
	sound, err := proto.Marshal(logs())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, bytes, want string }{
		{"sound", "MARK!", "MARK!"}, {"sound, not ASCII", "a\u00e9bc", "a\u00e9bc"}, {"bytes above 127", "a\xff\xfeb!", "a??b!"},
		{"half a rune", "abcd\xc3", "abcd?"}, {"a surrogate", "\xed\xa0\x80ab", "???ab"}, {"overlong", "\xc0\xafabc", "??abc"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got alsv3.StreamAccessLogsMessage
			if err := unmarshal(bytes.ReplaceAll(sound, []byte("MARK!"), []byte(c.bytes)), &got); err != nil {
				t.Fatal(err)
			}
			entries := got.GetHttpLogs().GetLogEntry()
			if len(entries) != 2 || !proto.Equal(entries[1], logs().GetHttpLogs().GetLogEntry()[1]) {
				t.Fatalf("the record beside it is %v", entries)
			}
			e := entries[0]
			for place, s := range map[string]string{
				"request id": e.GetRequest().GetRequestId(), "tag": e.GetCommonProperties().GetCustomTags()["tag"],
				"metadata": e.GetCommonProperties().GetMetadata().GetFilterMetadata()["weir"].GetFields()["model"].GetStringValue(),
			} {
				if s != c.want {
					t.Errorf("%s is %q, want %q", place, s, c.want)
				}
			}
		})
	}
	var m alsv3.StreamAccessLogsMessage
	if err := unmarshal(sound[:len(sound)-3], &m); err == nil {
		t.Error("a message that breaks off was taken")
	}
	data, err := Codec().Marshal(logs())
	if err != nil {
		t.Fatal(err)
	}
	var back alsv3.StreamAccessLogsMessage
	if err := unmarshal(data.Materialize(), &back); err != nil || !proto.Equal(&back, logs()) {
		t.Errorf("there and back: %v, %v", &back, err)
	}
}

// own is a message that decodes and encodes itself.
type own struct{ bytes []byte }

func (o *own) UnmarshalWire(data mem.BufferSlice) error {
	if o.bytes = data.Materialize(); len(o.bytes) == 0 {
		return errors.New("it is empty")
	}
	return nil
}

func (o *own) MarshalWire() (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(o.bytes)}, nil
}

func TestCodecLetsMessagesDoItThemselves(t *testing.T) {
	var m own
	if err := Codec().Unmarshal(mem.BufferSlice{mem.SliceBuffer("\xff"), mem.SliceBuffer("x")}, &m); err != nil || string(m.bytes) != "\xffx" {
		t.Errorf("%q, %v", m.bytes, err)
	}
	if data, err := Codec().Marshal(&m); err != nil || string(data.Materialize()) != "\xffx" {
		t.Errorf("%q, %v", data.Materialize(), err)
	}
	if err := Codec().Unmarshal(nil, &m); err == nil {
		t.Error("its error is lost")
	}
}

// FuzzCodec: whatever the bytes, the codec takes what gRPC's own takes, reads the same, and never panics.
func FuzzCodec(f *testing.F) {
	sound, err := proto.Marshal(logs())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sound)
	f.Add(bytes.ReplaceAll(sound, []byte("MARK!"), []byte("\xff\xfe\xfd\xfc\xfb")))
	f.Add(sound[:7])
	f.Fuzz(func(t *testing.T, raw []byte) {
		var plain, got alsv3.StreamAccessLogsMessage
		plainErr, err := proto.Unmarshal(raw, &plain), unmarshal(bytes.Clone(raw), &got)
		if plainErr == nil && (err != nil || !proto.Equal(&plain, &got)) {
			t.Errorf("%v: %v instead of %v", err, &got, &plain)
		}
		if err == nil {
			if _, err := proto.Marshal(&got); err != nil {
				t.Errorf("what was taken cannot be written: %v", err)
			}
		}
	})
}
