import traceback

for call in (
    lambda: b'abc\xff'.decode(),
    lambda: 'é'.encode('ascii'),
    lambda: '\ud800'.encode(),
    lambda: b'\x80'.decode('utf-16'),
    lambda: open('/dev/null', encoding='no-such-encoding'),
):
    try:
        call()
    except Exception:
        traceback.print_exc()
'\ud800 lone'.encode()
