import http.client
import http.server
import threading
import urllib.error
import urllib.request


class Server(http.server.ThreadingHTTPServer):
    def server_bind(self):
        http.server.socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == '/missing':
            self.send_error(404, 'Nothing here')
            return
        body = f'you asked for {self.path}'.encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, pattern, *arguments):
        print('log:', pattern % arguments, flush=True)


with Server(('127.0.0.1', 0), Handler) as server:
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
    thread.start()
    base = 'http://127.0.0.1:%d' % server.server_port
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(base + '/a?b=c') as response:
        print(response.status, response.read(), response.headers['Content-Length'])
    try:
        opener.open(base + '/missing')
    except urllib.error.HTTPError as error:
        print(error)
    server.shutdown()
    thread.join()
