/**
 * The transport of the installed service: one call at a time on a connection, so that closing it is the cancellation
 * (of a run: closing the client's half; the server closes when nothing of the run is alive), and the socket's own flow control is the backpressure. A connection whose call has been answered is used again.
 *
 *   client: call {op, name, request}
 *           · for put and send: data… dataEnd
 *           · for an interactive run: data|input…, where dataEnd ends the program's standard input
 *   server: for a run: started, stdout|stderr|compile…, answer (the result); of an interactive one taken for each frame of
 *             its input, of which only a few may be on their way: behind more than the server reads ahead, the end of
 *             the client's half would not be seen as long as the program reads nothing
 *           · for fetch: answer, data… dataEnd
 *           · else: answer
 *           · at any time instead: error
 *
 * After put, send, fetch, an interactive run and an error the server closes: what a client may still be sending belongs
 * to no call.
 */
export { connect } from './unix-socket-client.ts';
export { serve, type SocketServer } from './unix-socket-server.ts';
