-- Seven minutes of three services in two regions, made up.  One request in a
-- hundred fails.  From 12:02 to 12:03:30 checkout is in trouble.  At 12:05 search
-- has some errors in region 0, not enough for an alert; but the log of region 1,
-- where all is well, comes 40 seconds late.
SELECT setseed(0.5) \g /dev/null

CREATE TABLE script AS
SELECT service, region, ts, (CASE WHEN random() < trouble THEN 503 ELSE 200 END) AS status,
	ts + random() * interval '1 second' + CASE WHEN late THEN interval '40 seconds' ELSE '0' END AS arrival
FROM (
	SELECT service, region, ts,
		CASE WHEN service = 'checkout' AND ts >= '2025-06-02 12:02Z' AND ts < '2025-06-02 12:03:30Z' THEN 0.2
			WHEN service = 'search' AND ts >= '2025-06-02 12:05Z' AND ts < '2025-06-02 12:05:30Z' THEN 0.14 * (1 - region)
			ELSE 0.01 END AS trouble,
		region = 1 AND ts >= '2025-06-02 12:04:40Z' AND ts < '2025-06-02 12:05:40Z' AS late
	FROM unnest(ARRAY['checkout', 'search', 'login']) AS service, generate_series(0, 1) AS region,
		generate_series(timestamptz '2025-06-02 12:00Z', '2025-06-02 12:06:58Z', '0.1 seconds') AS ts
) AS e;
