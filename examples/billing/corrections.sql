-- In November: a meter of A had a wrong digit in March,
UPDATE usage SET kwh = kwh + 100 WHERE id = (
	SELECT min(id) FROM usage WHERE customer = 'customer A' AND used_at > '2025-03-10 00:00+01');
-- B was charged for a neighbour's day in May,
UPDATE usage SET customer = 'customer C'
WHERE customer = 'customer B' AND used_at >= '2025-05-05 00:00+02' AND used_at < '2025-05-06 00:00+02';
-- D never lived here in July,
DELETE FROM usage WHERE customer = 'customer D' AND used_at >= '2025-07-01 00:00+02' AND used_at < '2025-08-01 00:00+02';
-- and a meter of E comes with a row of 1 April, half past midnight; in UTC that
-- is still March.
INSERT INTO usage (customer, kwh, used_at) VALUES ('customer E', 42, '2025-04-01 00:30+02');
