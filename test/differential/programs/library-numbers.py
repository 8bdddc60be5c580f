import cmath
import decimal
import fractions
import math
import random
import statistics

decimal.getcontext().prec = 40
print(decimal.Decimal(2).sqrt(), decimal.Decimal('0.1') + decimal.Decimal('0.2'), fractions.Fraction(0.125))
print(math.factorial(30), math.comb(50, 25), cmath.sqrt(-1), 0.1 + 0.2, 1e308 * 10, math.nan, -0.0, 2**200 % 97)
random.seed(42)
print(random.random(), random.sample(range(100), 5), random.choice('abc'), random.gauss(0, 1))
print(statistics.stdev([1, 2, 4]), int('9' * 30), round(2.5), divmod(-7, 2), (1 << 64).bit_length())
int('9' * 5000)
