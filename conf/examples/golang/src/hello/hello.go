// Says hello on the port that hob gives it.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
)

func main() {
	http.HandleFunc("/", func(answer http.ResponseWriter, request *http.Request) {
		fmt.Fprintln(answer, "hello from go")
	})
	log.Fatal(http.ListenAndServe(":"+os.Getenv("PORT_WWW"), nil))
}
