// Uploads with go-tus: files of several sizes in chunks, by PATCH and by POST with the method in a header, each
// aborted after its first chunk and resumed by another client.
//
// Usage: go run . URL-OF-FILES
package main

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net/http"
	"os"

	"github.com/eventials/go-tus"
	"github.com/eventials/go-tus/memorystore"
)

const chunkSize = 64 * 1024

func main() {
	for _, overrides := range []bool{false, true} {
		for _, size := range []int{1, chunkSize - 1, chunkSize, 3*chunkSize + 7} {
			if err := upload(os.Args[1], size, overrides); err != nil {
				log.Fatalf("%d bytes, method in a header: %t: %v", size, overrides, err)
			}
			fmt.Printf("%d bytes\n", size)
		}
	}
}

func upload(endpoint string, size int, overrides bool) error {
	content := make([]byte, size)
	rand.New(rand.NewSource(int64(size))).Read(content)
	store, err := memorystore.NewMemoryStore()
	if err != nil {
		return err
	}
	of := func() *tus.Upload {
		metadata := tus.Metadata{"filename": "ä.bin"}
		return tus.NewUpload(bytes.NewReader(content), int64(size), metadata, fmt.Sprint(size))
	}
	client := func() (*tus.Client, error) {
		return tus.NewClient(endpoint, &tus.Config{
			ChunkSize: chunkSize, Resume: true, OverridePatchMethod: overrides, Store: store,
		})
	}

	first, err := client()
	if err != nil {
		return err
	}
	uploader, err := first.CreateUpload(of())
	if err != nil {
		return err
	}
	if err := uploader.UploadChunck(); err != nil {
		return err
	}
	second, err := client()
	if err != nil {
		return err
	}
	resumed, err := second.ResumeUpload(of())
	if err != nil {
		return err
	}
	if resumed.Offset() != int64(min(size, chunkSize)) {
		return fmt.Errorf("it resumes at %d", resumed.Offset())
	}
	if err := resumed.Upload(); err != nil {
		return err
	}
	return isStored(resumed.Url(), content)
}

func isStored(url string, content []byte) error {
	answer, err := http.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	stored, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK || !bytes.Equal(stored, content) {
		return fmt.Errorf("%s: the server has other bytes", answer.Status)
	}
	return nil
}
