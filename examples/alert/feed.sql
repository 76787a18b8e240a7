INSERT INTO requests (service, status, ts, region)
SELECT service, status, ts, region FROM script
WHERE arrival >= :'from' AND arrival < :'to' ORDER BY arrival;
