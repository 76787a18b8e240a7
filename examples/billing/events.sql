-- Twenty customers' meters, each reporting every seven hours, 2025 until October.
SELECT setseed(0.5) \g /dev/null

CREATE TABLE script AS
SELECT 'customer ' || chr(64 + c) AS customer, (2 + 5 * random())::numeric(10, 3) AS kwh, used_at,
	used_at + random() * interval '2 hours' AS arrival
FROM generate_series(1, 20) AS c,
	generate_series(timestamptz '2025-01-01 00:00+01' + c * interval '20 minutes', '2025-11-02', '7 hours') AS used_at;
