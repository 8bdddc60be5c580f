import hashlib
import hmac
import secrets
import uuid
import zlib

for name in ('md5', 'sha1', 'sha256', 'sha3_512', 'blake2b'):
    print(name, hashlib.new(name, b'nox', usedforsecurity=False).hexdigest())
print(hmac.new(b'k', b'm', 'sha256').hexdigest(), zlib.crc32(b'nox'), hashlib.pbkdf2_hmac('sha256', b'p', b's', 1000).hex())
print(len(secrets.token_hex(16)), len(secrets.token_bytes(5)), secrets.compare_digest('a', 'a'), secrets.randbelow(1))
print(uuid.uuid5(uuid.NAMESPACE_DNS, 'nox'), len(str(uuid.uuid4())), hash(1), hash(1.5), hash((1, 2)), hash('a') == hash('a'))
hashlib.new('nonsense')
