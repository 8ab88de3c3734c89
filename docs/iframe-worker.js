// Search without a server: browsers start no worker for a page that is opened from a file, so a hidden frame takes its place.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.appendChild(this.frame)
      const inside = this.frame.contentWindow
      window.addEventListener("message", (this.listener = (event) => {
        if (event.source !== inside) return
        const copy = new MessageEvent("message", { data: event.data })
        this.dispatchEvent(copy)
        if (this.onmessage) this.onmessage(copy)
      }))
      this.ready = new Promise((resolve) => {
        inside.postMessage = (data) => setTimeout(() => this.listener({ source: inside, data }))
        inside.importScripts = (...urls) => urls.reduce((before, one) => before.then(() => load(one)), Promise.resolve())
        const load = (one) => new Promise((loaded, failed) => {
          const script = inside.document.createElement("script")
          Object.assign(script, { src: one, onload: loaded, onerror: failed })
          inside.document.body.appendChild(script)
        })
        load(url).then(resolve)
      })
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })))
    }
    terminate() {
      window.removeEventListener("message", this.listener)
      this.frame.remove()
    }
  }
}
