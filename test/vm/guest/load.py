"""Calls /run_py from several clients until it is told to stop, and says what became of the calls.

    load.py CLIENTS STOPFILE

Prints JSON: answered; refused (nothing listened, or the gateway said that it stops: the restart gap); cut, the calls
whose connection the kernel cut off without an answer (closing a port does that to those who have not been accepted);
failed, a list of what else went wrong; and gap, the longest time in seconds in which no call was answered though some
were tried. Each run adds the name of its call to the file `ran`.
"""
import http.client
import json
import os
import sys
import threading
import time

clients, stop = int(sys.argv[1]), sys.argv[2]
token = next(line.split('=', 1)[1].strip().strip('"') for line in open('/etc/default/nox-api') if line.startswith('NOX_API_TOKEN='))
lock = threading.Lock()
answered, refused, cut, failed = [], [], [], []


def work(number):
    count = 0
    while not os.path.exists(stop):
        count += 1
        want = '%d.%d' % (number, count)
        connection = http.client.HTTPConnection('127.0.0.1', 8080, timeout=120)
        try:
            connection.connect()
        except OSError as error:
            with lock:
                (refused if isinstance(error, ConnectionRefusedError) else failed).append(repr(error))
            time.sleep(0.05)
            continue
        try:
            body = json.dumps({'code': 'import time; open("ran", "a").write(%r + "\\n"); time.sleep(0.2); print(%r)' % (want, want)})
            connection.request('POST', '/run_py', body, {'Authorization': 'Bearer ' + token, 'Content-Type': 'application/json'})
            response = connection.getresponse()
            text = response.read().decode()
            right = response.status == 200 and json.loads(text)['stdout'] == want + '\n'
            stopping = response.status == 503 and json.loads(text)['code'] == 'shutting_down'
            with lock:
                if right:
                    answered.append(time.monotonic())
                elif stopping:
                    refused.append(text)
                else:
                    failed.append('%d %s' % (response.status, text[:200]))
            if stopping:
                time.sleep(0.05)
        except (ConnectionResetError, BrokenPipeError):
            with lock:
                cut.append(want)
        except Exception as error:
            with lock:
                failed.append(repr(error))
        finally:
            connection.close()


threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
gaps = [later - earlier for earlier, later in zip(answered, answered[1:])]
print(json.dumps({'answered': len(answered), 'refused': len(refused), 'cut': cut, 'failed': failed[:5], 'gap': round(max(gaps, default=0), 2)}))
