import calendar
import datetime
import os
import time
import zoneinfo

os.environ['TZ'] = 'Europe/Berlin'
time.tzset()
print(time.tzname, time.strftime('%Y-%m-%d %H:%M %Z', time.localtime(1_700_000_000)))
print(datetime.datetime(2024, 3, 31, 1, 30, tzinfo=zoneinfo.ZoneInfo('Europe/Berlin')).astimezone(datetime.UTC))
print(datetime.datetime.fromtimestamp(0, zoneinfo.ZoneInfo('Asia/Tokyo')), calendar.month(2024, 2))
try:
    zoneinfo.ZoneInfo('Nowhere/Land')
except Exception as error:
    print(type(error).__name__, error)
print(abs(time.time() - time.clock_gettime(time.CLOCK_REALTIME)) < 1, time.monotonic() > 0, time.process_time() >= 0)
