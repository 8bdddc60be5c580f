// What the gateway's part of a download costs by itself, as a program of its own: it hands on what comes from a unix
// socket to a client of HTTP. Arguments: the socket's path, how many bytes come. Ends with its standard input.
// No TypeScript: without a compiler (`--jitless`), as the gateway runs, Node cannot take the types away.
import { createServer } from 'node:http';
import { connect } from 'node:net';

const [, , path, bytes] = process.argv;
const memory = Buffer.allocUnsafeSlow(256 * 1024);
const server = createServer((_, response) => {
  response.writeHead(200, { 'content-length': bytes });
  const callback = (length) => {
    source.pause();
    response.write(memory.subarray(0, length), () => source.resume());
    return true;
  };
  const source = connect({ path, onread: { buffer: memory, callback } });
  source.once('end', () => response.end());
  source.resume();
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.once('end', () => process.exit()).resume();
